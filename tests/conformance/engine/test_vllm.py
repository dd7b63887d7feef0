"""What is vLLM's own: errors inside streams, gauges that hide or are shared, prefix caching, and the format that was recorded."""

from __future__ import annotations

import pytest

from orchqueue.adapters.engines import vllm
from orchqueue.adapters.engines.conformance.listening import begin, decode
from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading
from orchqueue.adapters.engines.vllm_messages import read_figures
from orchqueue.adapters.engines.vllm_reader import VllmReader
from orchqueue.adapters.engines.wire import SseSplitter
from orchqueue.core.request import Message, Sampling, TaskSpec
from orchqueue.ports.engine import Completion
from orchqueue.ports.errors import EngineError
from tests.conformance.engine.conftest import StartSimulated
from tests.conformance.engine.recorded_vllm import SPECIAL, Recorded, ask, form_of, load, names

SPEC = TaskSpec(prompt="Tell me", seed=3, max_tokens=60, sampling=Sampling(ignore_eos=True))
LONG = TaskSpec(prompt="Tell me", seed=3, max_tokens=2000, sampling=Sampling(ignore_eos=True))
CHAT = TaskSpec(messages=(Message("user", "a"), Message("user", "b")), seed=1, max_tokens=8)
NOT_SIMULATED = SPECIAL | {"bad_schema", "bad_token", "detokenize", "tokenize", "tokenize_chat"}
"""Besides, the simulated one compiles no schema, and its tokens have other numbers."""


@pytest.fixture
def engine() -> str:
    """Simulate vLLM."""
    return "vllm"


def read(one: Recorded, cut_bytes: int) -> tuple[str, Reading]:
    """Read a recorded stream in pieces of so many bytes: its whole text, and the reading that brought the end."""
    now_s = iter(range(1000)).__next__
    reader, splitter, text = VllmReader(now_s), SseSplitter(), ""
    data = one.body.encode()
    for at in range(0, len(data), cut_bytes):
        reading = reader.take(splitter.feed(data[at : at + cut_bytes]))
        text += "".join(reading.texts)
        if reading.end is not None:
            return text, reading
    return text, reader.finish()


@pytest.mark.req("ORCH-4214", "ORCH-4215", "ORCH-4220", "ORCH-4442")
@pytest.mark.parametrize("cut_bytes", [1 << 20, 7])
@pytest.mark.parametrize(
    ("name", "text", "tokens", "reason", "whole"),
    [
        ("eos", "Yes, I can do it.", (13, 8), "stop", True),
        ("stop", " Paris.\n\nThe ", (5, 6), "stop", False),
        ("length", " recently in", (7, 2), "length", False),
        ("grammar", "certainly", (4, 5), "stop", True),
        ("characters", " 🌟 ", (6, 4), "stop", False),
    ],
)
def test_recorded_streams_are_read(
    name: str, text: str, tokens: tuple[int, int], reason: str, whole: bool, cut_bytes: int
) -> None:
    """Text, counts and reason of the real engine's streams are read, however they are cut."""
    told, reading = read(load(name), cut_bytes)
    assert isinstance(reading.end, Ended)
    completion = reading.end.completion
    assert (told, (completion.tokens_in, completion.tokens_out)) == (text, tokens)
    assert (completion.finish_reason, reading.end.whole) == (reason, whole)


@pytest.mark.req("ORCH-4220")
def test_the_engines_own_times_are_taken() -> None:
    """Where the server was started to tell times and cached tokens, they are taken as told."""
    _, reading = read(load("timed"), 1 << 20)
    assert isinstance(reading.end, Ended)
    assert reading.end.completion == Completion("length", 5, 4, prefill_ms=103, decode_ms=208, cached_tokens=0)


@pytest.mark.req("ORCH-4216", "ORCH-4442")
@pytest.mark.parametrize(
    ("name", "failure"),
    [("bad_grammar", "rejected"), ("bad_schema", "rejected"), ("bad_token", "rejected"), ("dead", "lost")],
)
def test_recorded_errors_inside_streams(name: str, failure: str) -> None:
    """An error that comes with status 200 means what its code says; an engine that died is lost."""
    text, reading = read(load(name), 1 << 20)
    assert isinstance(reading.end, Broken)
    assert (text, reading.end.failure) == ("", failure)


@pytest.mark.req("ORCH-4216")
@pytest.mark.parametrize(
    ("name", "failure", "words"),
    [
        ("overflow", "overloaded", "cannot accept new requests"),
        ("no_key", "engine_error", "Unauthorized"),
        ("no_route", "engine_error", "Not Found"),
        ("no_tokens", "rejected", "max_tokens must be at least 1"),
        ("two_bounds", "rejected", "only use one kind"),
    ],
)
def test_recorded_refusals(name: str, failure: str, words: str) -> None:
    """Each form of a refusal is read: an object, a word, a detail."""
    one = load(name)
    refusal = VllmReader(lambda: 0.0).refusal(Answer(one.status, one.body.encode()))
    assert refusal.failure == failure
    assert words in refusal.detail


@pytest.mark.req("ORCH-4441", "ORCH-4273")
def test_recorded_metrics() -> None:
    """The gauges and what is said of prefix caching are found in the real engine's metrics."""
    off, on = (read_figures(load(name).body.encode()) for name in ("metrics", "metrics_caching"))
    assert (off.held, off.kv_usage_ratio, off.prefix_caching) == (0, 0.0, False)
    assert on.prefix_caching is True
    unknown = read_figures(b"vllm:num_requests_running{} 1.0\n")
    assert (unknown.held, unknown.kv_usage_ratio, unknown.prefix_caching) == (None, None, None)


@pytest.mark.req("ORCH-4442")
@pytest.mark.parametrize("name", [name for name in names() if name not in NOT_SIMULATED])
async def test_the_simulated_engine_answers_as_the_real_one(simulate: StartSimulated, name: str) -> None:
    """Status, kind and members of each answer are those of the recorded one."""
    running = await simulate("--model", "smollm2-135m-instruct")
    recorded = load(name)
    simulated = await ask(running.url, recorded)
    assert (simulated.status, form_of(simulated)) == (recorded.status, form_of(recorded))


@pytest.mark.req("ORCH-4442")
async def test_the_simulated_gauges_are_the_real_ones(simulate: StartSimulated) -> None:
    """Every line of the simulated metrics has a name that the real engine has; a key is refused in the same word."""
    running = await simulate("--api-key", "k3y")
    simulated, recorded = await ask(running.url, load("metrics")), load("metrics").body
    lines = {line.partition("{")[0] + "{" for line in simulated.body.splitlines()}
    assert lines
    assert all(line in recorded for line in lines)
    assert (await ask(running.url, load("no_key"))).body == load("no_key").body.replace(":", ": ")


@pytest.mark.req("ORCH-4220", "ORCH-4441")
async def test_prefix_caching_is_never_strict(simulate: StartSimulated) -> None:
    """A server that reuses what it has read serves, but nothing strict, and says what to change."""
    running = await simulate("--faults", '{"prefix_caching": true}', "--tokens-per-s", "1000")
    replica = running.replica()
    facts = await replica.self_test()
    assert not facts.strict_proven
    assert "--no-enable-prefix-caching" in facts.selftest_note
    assert (await decode(replica, SPEC)).completion is not None


@pytest.mark.req("ORCH-4441")
async def test_hidden_metrics_prove_nothing(simulate: StartSimulated) -> None:
    """Where the metrics are off nothing is strict, and an abort is given time."""
    running = await simulate("--faults", '{"hide_slots": true}', "--tokens-per-s", "1000")
    facts = await running.replica().self_test()
    assert not facts.strict_proven
    assert "metrics" in facts.selftest_note
    assert (await running.replica().scrape()).kv_usage_ratio is None


@pytest.mark.req("ORCH-4213")
async def test_an_abort_beside_our_own_attempts_waits_for_its_own(
    simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another attempt of ours at work, an abort is closed once the engine holds one request less, and not by time."""
    monkeypatch.setattr(vllm, "SHARED_S", 60.0)
    # So slowly that the other attempt outlasts the test.
    running = await simulate("--slots", "2", "--tokens-per-s", "10")
    await running.set_faults(ignore_abort_ms=400)
    replica = running.replica(slots=2)
    other = begin(replica, LONG)
    await other.first_text.wait()
    mine = begin(replica, LONG, on_first=lambda handle: handle.abort())
    await mine.closed_event.wait()
    gauges = await ask(running.url, load("metrics"))
    assert read_figures(gauges.body.encode()).held == 1
    assert not other.closed_event.is_set()
    await replica.close()


@pytest.mark.req("ORCH-4213")
async def test_two_aborts_do_not_take_each_other_for_gone(simulate: StartSimulated) -> None:
    """Of two attempts that are left, none is closed while the engine still holds one that may be it."""
    running = await simulate("--slots", "2")
    await running.set_faults(ignore_abort_ms=400, times=1)
    replica = running.replica(slots=2)
    runs = [begin(replica, LONG), begin(replica, LONG)]
    for run in runs:
        await run.first_text.wait()
    for run in runs:
        assert run.handle is not None
        run.handle.abort()
    for run in runs:
        await run.closed_event.wait()
    assert await replica.is_idle()


@pytest.mark.req("ORCH-4216")
async def test_a_grammar_that_is_refused_in_the_stream_is_closed_at_once(
    simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error inside a stream that began with 200 is a refusal, and the time for what was never seen is not spent on it."""
    monkeypatch.setattr(vllm, "UNSEEN_S", 60.0)
    running = await simulate()
    bad = TaskSpec(prompt="x", seed=1, max_tokens=2, sampling=Sampling(grammar="root ::= ("))
    run = await decode(running.replica(), bad)
    assert run.failure is not None
    assert run.failure[0] == "rejected"


@pytest.mark.req("ORCH-4036")
async def test_a_template_that_refuses_is_the_callers_fault(simulate: StartSimulated) -> None:
    """A chat that the template does not take is rejected, and cannot be counted."""
    running = await simulate("--faults", '{"template_fails": true}')
    run = await decode(running.replica(), CHAT)
    assert run.failure is not None
    assert run.failure[0] == "rejected"
    with pytest.raises(EngineError, match="alternate"):
        await running.replica().count_prompt(CHAT)


@pytest.mark.req("ORCH-4178")
async def test_a_chat_goes_on_from_what_was_said(simulate: StartSimulated) -> None:
    """What was said is counted as part of the prompt, without a token for the beginning."""
    replica = (await simulate()).replica()
    first, more = await decode(replica, CHAT), await decode(replica, CHAT, said=" and then")
    assert first.completion is not None
    assert more.completion is not None
    assert more.completion.tokens_in > first.completion.tokens_in


@pytest.mark.req("ORCH-3003", "ORCH-4220")
async def test_version_and_digest_tell_replica_sets_apart(simulate: StartSimulated) -> None:
    """The version says whose it is, and another model has another digest."""
    one, other = await simulate(), await simulate("--model", "another")
    facts = [await running.replica().properties() for running in (one, one, other)]
    assert facts[0].engine_version == "vllm-0.32.0+simulated"
    assert facts[0] == facts[1]
    assert facts[0].model_digest != facts[2].model_digest
