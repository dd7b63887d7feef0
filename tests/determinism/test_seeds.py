"""The suite's seeds and prompts are what the specification says, and the guard on them bites."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchqueue.cli import verify_determinism
from orchqueue.verify.prompts import FIRST_TOKENS, MAX_TOKENS, PROMPTS, SEEDS, prompt_of
from tests.determinism.suite import CONFIGS, SOME


def fault_of(seeds: Sequence[int]) -> str:
    """Say how seeds differ from exactly 1001 to 1064, each once, in order; empty when they do not."""
    wanted = [1001 + number for number in range(64)]
    if list(seeds) == wanted:
        return ""
    return f"lacks {sorted(set(wanted) - set(seeds))}, has {sorted(set(seeds) - set(wanted))}, {len(seeds)} in all"


@pytest.mark.req("ORCH-4240")
def test_the_seeds_are_exactly_1001_to_1064() -> None:
    """Not one more, not one less, in the suite and in the command's default."""
    assert fault_of(SEEDS) == ""
    assert verify_determinism.SEEDS_AT_MOST == 64
    assert set(SOME) <= set(SEEDS)
    assert {prompt_of(seed) for seed in SOME} == set(PROMPTS)


@pytest.mark.req("ORCH-4240")
@pytest.mark.parametrize(
    "seeds", [range(1001, 1064), range(1000, 1064), range(1001, 1066), [1001] * 64, [*range(1002, 1065), 1001], [], [1]]
)
def test_the_guard_refuses_any_other_seeds(seeds: Sequence[int]) -> None:
    """One too few, one too many, one doubled, another order: each is caught."""
    assert fault_of(seeds) != ""


@pytest.mark.req("ORCH-4240")
def test_prompts_are_of_mixed_lengths_and_scripts() -> None:
    """Short and long, ASCII and not, none twice, and streams are longer than the first 32 tokens."""
    lengths = [len(prompt.encode()) for prompt in PROMPTS]
    assert min(lengths) < 4
    assert max(lengths) > 200
    assert len(set(lengths)) > len(PROMPTS) // 2
    assert len(set(PROMPTS)) == len(PROMPTS)
    for script in ("[а-я]", "[一-龯]", "[à-ü]", "[\U0001f300-\U0001faff]"):
        assert any(re.search(script, prompt) for prompt in PROMPTS)
    assert MAX_TOKENS > FIRST_TOKENS == 32


def fault_of_config(config: dict[str, Any]) -> str:
    """Say why a configuration does not describe two strict replicas that could be of one set; empty when it does."""
    pools = config["pools"]
    replicas = sum(pool.get("replicas") or len(pool.get("launch", {}).get("urls", ())) or 1 for pool in pools)
    if replicas != 2:
        return f"{replicas} replicas"
    if any((pool.get("determinism"), pool.get("slots")) != ("strict", 1) for pool in pools):
        return "the promise is not written out for each pool: determinism: strict and slots: 1"
    if any(pool[name] != pools[0][name] for pool in pools for name in ("engine", "model", "ctx")):
        return "the pools differ"
    return ""


@pytest.mark.req("ORCH-4240", "ORCH-4288")
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_engine_has_a_configuration_of_two_strict_replicas(path: Path) -> None:
    """Two replicas, one slot each, the promise written out."""
    assert fault_of_config(YAML(typ="safe").load(path.read_text())) == ""


@pytest.mark.req("ORCH-4240")
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    replicas: 1\n", "    replicas: 2\n", "4 replicas"),
        ("    slots: 1\n", "    slots: 2\n", "the promise is not written out"),
        ("    determinism: strict\n", "", "the promise is not written out"),
    ],
)
def test_the_guard_refuses_other_configurations(old: str, new: str, told: str) -> None:
    """More replicas, more slots, or a promise that is only implied: each is caught."""
    text = (CONFIGS / "llamacpp.yaml").read_text().replace(old, new)
    assert fault_of_config(YAML(typ="safe").load(text)).startswith(told)
