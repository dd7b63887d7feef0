"""What a refused client reads: which field, what is wrong with it, and what there is instead."""

import pytest

from orchqueue.core import events as ev
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import PlacementWish, TaskSpec
from tests.unit.core.driving import Driver, key, pool_settings

A, B = pool_settings("a", strict=False), pool_settings("b", engine="vllm", model_ref="n", strict=False)


@pytest.mark.req("ORCH-3014", "ORCH-4057", "ORCH-4058", "ORCH-4169")
@pytest.mark.parametrize(
    ("wish", "pointer", "message"),
    [
        ({"model_ref": "x"}, "/model_ref", "unknown model; this daemon serves: m, n"),
        ({"engine": "tgi"}, "/engine", "no pool runs this engine; engines here: llamacpp, vllm"),
        ({"placement": PlacementWish("pin", ("a", "x"))}, "/placement/pool_ids/1", "unknown pool; pools: a, b"),
        ({"placement": PlacementWish(avoid=("x",))}, "/placement/avoid/0", "unknown pool; pools: a, b"),
        ({"placement": PlacementWish("pin")}, "/placement/pool_ids", "mode pin needs at least one pool id"),
        (
            {"sampler_profile_version": "v9"},
            "/sampler_profile_version",
            "unknown profile; known: v1, greedy-v1, focused-v1",
        ),
        (
            {"model_ref": "m", "placement": PlacementWish(avoid=("a",))},
            "/placement",
            "no pool is left after model_ref, engine, pin and avoid together",
        ),
        ({"model_ref": "m", "ctx": 300}, "/ctx", "ctx 300 is above the pool's 256 tokens; ask for less"),
        ({}, "/model_ref", "several models fit; choose model_ref (and engine) among: m on llamacpp, n on vllm"),
        (
            {"model_ref": "m", "determinism": "strict"},
            "/determinism",
            "no fitting pool can be strict (one slot per replica and a passed self-test); omit it or use best_effort",
        ),
    ],
)
def test_each_fault_says_where_and_what_and_what_else_there_is(
    wish: dict[str, object], pointer: str, message: str
) -> None:
    """The field is pointed to, and the names that would do stand beside it."""
    core = Driver(A, B)
    core.submit("t", **wish)
    refusal = core.refusal().refusal
    assert (refusal.outcome, [(f.pointer, f.message) for f in refusal.faults]) == (
        Outcome.INVALID,
        [(pointer, message)],
    )
    assert refusal.message == f"{pointer}: {message}"


@pytest.mark.req("ORCH-4058")
def test_all_faults_are_told_at_once() -> None:
    """A client that got two names wrong needs not ask twice."""
    core = Driver(A, B)
    core.submit("t", model_ref="x", engine="tgi")
    refusal = core.refusal().refusal
    assert [f.pointer for f in refusal.faults] == ["/model_ref", "/engine"]
    assert refusal.message == "; ".join(f"{f.pointer}: {f.message}" for f in refusal.faults)


@pytest.mark.req("ORCH-4058")
def test_a_workload_that_nobody_serves_has_an_outcome_of_its_own() -> None:
    """It is the caller's fault and may be told apart from other ones."""
    core = Driver()
    core.submit("t", workload="embedding")
    refusal = core.refusal().refusal
    assert refusal.outcome is Outcome.NO_WORKLOAD
    assert refusal.message == "/workload: no fitting pool serves workload embedding"


@pytest.mark.req("ORCH-4056", "ORCH-4147")
@pytest.mark.parametrize(
    ("spec", "tokens", "field", "said", "fit"),
    [
        (TaskSpec(prompt="x" * 300), 250, "/prompt", "the prompt has 250 tokens", 6),
        (TaskSpec(prompt="x" * 300), 300, "/prompt", "the prompt has 300 tokens", 0),
        (TaskSpec(prompt="x" * 900), None, "/prompt", "the prompt estimated at 301 tokens", 0),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(
    spec: TaskSpec, tokens: int | None, field: str, said: str, fit: int
) -> None:
    """Both sides of the sum are named, an estimate is called one, and what would fit is never below nothing."""
    core = Driver()
    core.submit("t", prompt=spec.prompt)
    core.handle(ev.PromptCounted(key("t"), tokens))
    assert [(f.pointer, f.message) for f in core.refusal().refusal.faults] == [
        (field, f"{said}; with max_tokens 8 that is above ctx 256"),
        ("/max_tokens", f"at most {fit} would fit"),
    ]


@pytest.mark.req("ORCH-4118")
def test_a_pool_with_another_model_by_now_names_it() -> None:
    """A task that named the old one and was being counted meanwhile learns what is served."""
    core = Driver(pool_settings())
    core.submit("t", model_ref="m", prompt="x" * 300)
    core.pool().model_ref = "new"
    core.handle(ev.PromptCounted(key("t"), 10))
    assert core.refusal().refusal.message == "/model_ref: pool p serves new by now"
