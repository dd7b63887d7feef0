"""How tasks are said in llama.cpp's words."""

import pytest

from orchqueue.adapters.engines.llamacpp_sampling import sampler_params
from orchqueue.adapters.engines.sampling import UnservableError
from orchqueue.adapters.engines.schema_guard import SchemaGuard
from orchqueue.core.profiles import PROFILES
from orchqueue.core.request import Sampling, TaskSpec


@pytest.mark.req("ORCH-4171", "ORCH-4172")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_pins_every_sampler(profile: str) -> None:
    """No sampler is left to the engine's defaults under any profile."""
    params = sampler_params(TaskSpec(prompt="x", seed=1), profile)
    pinned = {"samplers", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "dry_multiplier", "xtc_probability",
              "typical_p", "top_n_sigma", "dynatemp_range", "mirostat", "presence_penalty", "frequency_penalty"}  # fmt: skip
    assert pinned <= params.keys()


@pytest.mark.req("ORCH-4061")
def test_overrides_win() -> None:
    """What the client names replaces the profile's value, and nothing else changes."""
    sampling = Sampling(temperature=0.1, top_k=3, min_p=0.2, stop=("END",), ignore_eos=True, grammar="root ::= [a-z]")
    plain = sampler_params(TaskSpec(prompt="x", seed=1), "v1")
    changed = sampler_params(TaskSpec(prompt="x", seed=1, sampling=sampling), "v1")
    assert {name: value for name, value in changed.items() if plain.get(name) != value} == {
        "temperature": 0.1, "top_k": 3, "min_p": 0.2, "stop": ["END"], "ignore_eos": True, "grammar": "root ::= [a-z]",
    }  # fmt: skip


@pytest.mark.req("ORCH-4058")
def test_an_unknown_profile_is_unservable() -> None:
    """A profile without a mapping is refused by name."""
    with pytest.raises(UnservableError, match="v9"):
        sampler_params(TaskSpec(prompt="x", seed=1), "v9")


@pytest.mark.parametrize(
    "schema",
    ['{"type":"nonsense"}', '{"$ref":"http://127.0.0.1:9/x"}', '{"$ref":"file:///etc/hostname"}', '"text"', "[1]",
     '{"type":"string","pattern":"("}', '{"$schema":"http://example.test/x"}'],
)  # fmt: skip
def test_what_is_no_schema_is_unservable(schema: str) -> None:
    """A broken schema and one that refers outside are refused before anything is sent or fetched."""
    with pytest.raises(UnservableError, match="json_schema"):
        SchemaGuard(schema)


@pytest.mark.req("ORCH-4064")
def test_the_guard_judges_the_whole_text() -> None:
    """Text in pieces is judged as one document."""
    guard = SchemaGuard('{"type":"object","required":["a"]}')
    guard.take('{"a"')
    assert guard.judge()
    guard.take(": 1}")
    assert guard.judge() == ""
    guard.take("]")
    assert "not JSON" in guard.judge()
