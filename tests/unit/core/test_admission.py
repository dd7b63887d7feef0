"""Every refusal before the queue, with the exact pointer of each fault, and nothing queued."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import Message, PlacementWish, Sampling, Workload
from orchqueue.core.settings import ClassSettings
from tests.unit.core.driving import Driver, key, pool_settings


def pair() -> Driver:
    """Serve two models that cannot be told apart without a name."""
    return Driver(pool_settings("p"), pool_settings("q", model_ref="n", engine="vllm", strict=False))


@pytest.mark.req("ORCH-3014", "ORCH-4057", "ORCH-4058", "ORCH-4169")
@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"model_ref": "unknown"}, ["/model_ref"]),
        ({"engine": "tgi"}, ["/engine"]),
        ({"model_ref": "unknown", "engine": "tgi"}, ["/model_ref", "/engine"]),
        ({"model_ref": None}, ["/model_ref"]),
        ({"model_ref": "m", "engine": "vllm"}, ["/placement"]),
        ({"placement": PlacementWish("pin")}, ["/placement/pool_ids"]),
        ({"placement": PlacementWish("pin", ("p", "nowhere"))}, ["/placement/pool_ids/1"]),
        ({"placement": PlacementWish(avoid=("nowhere",))}, ["/placement/avoid/0"]),
        ({"placement": PlacementWish("pin", ("p",), ("p",))}, ["/placement"]),
        ({"sampler_profile_version": "v9"}, ["/sampler_profile_version"]),
        ({"workload": "embedding"}, ["/workload"]),
        ({"ctx": 257}, ["/ctx"]),
        ({"model_ref": "n", "determinism": "strict"}, ["/determinism"]),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_its_pointer(fields: dict[str, object], pointers: list[str]) -> None:
    """INVALID_PARAMS names each field that is at fault, and nothing is queued."""
    core = pair()
    core.submit("t", **({"model_ref": "m"} | fields))
    refusal = core.refusal().refusal
    assert refusal.meaning.status == 400
    assert [fault.pointer for fault in refusal.faults] == pointers
    assert all(fault.message for fault in refusal.faults)
    assert key("t") not in core.core.state.tasks
    assert core.wanted(fx.Record) == []


@pytest.mark.req("ORCH-4056", "ORCH-4147")
@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"prompt": "x" * 10}, "/prompt"),
        ({"prompt": None, "messages": (Message("user", "hi"),)}, "/messages"),
    ],
)
def test_what_cannot_fit_into_the_context_is_refused_and_never_cut(fields: dict[str, object], pointer: str) -> None:
    """The fault names the text and how many tokens would still fit."""
    core = Driver()
    core.submit("t", max_tokens=250, **fields)
    (question,) = core.wanted(fx.CountPrompt)
    core.handle(ev.PromptCounted(question.key, 7))
    refusal = core.refusal().refusal
    assert [f.pointer for f in refusal.faults] == [pointer, "/max_tokens"]
    assert "at most 249 would fit" in refusal.faults[1].message
    assert refusal.faults[0].message == "the prompt has 7 tokens; with max_tokens 250 that is above ctx 256"


@pytest.mark.req("ORCH-4059", "ORCH-4471")
@pytest.mark.parametrize(
    ("workload", "inputs", "basis"),
    [
        ("embedding", ("x" * 254, "y" * 254), "bytes_bound"),
        ("embedding", ("x" * 255, "y"), "estimate"),
        ("embedding", ("x" * 764, "y"), "estimate"),
        ("embedding", ("y", "x" * 768), None),
        ("rerank", ("x" * 100, "y" * 154, "z" * 154), "bytes_bound"),
        ("rerank", ("x" * 100, "y" * 155), "estimate"),
        ("rerank", ("x" * 400, "y" * 368), None),
    ],
)
def test_each_input_has_to_fit_a_document_with_its_query(
    workload: Workload, inputs: tuple[str, ...], basis: str | None
) -> None:
    """What counts is the longest text that is read at once: by its bytes, else by an estimate that says so."""
    core = Driver(pool_settings(workloads=("embedding", "rerank")))
    core.submit("t", prompt=None, inputs=inputs, workload=workload, max_tokens=1)
    if core.wanted(fx.CountPrompt):
        core.handle(ev.PromptCounted(key("t"), None))
    if basis is None:
        assert (
            core.refusal().refusal.message
            == "/inputs: one of the inputs is estimated at 257 tokens, which is above ctx 256"
        )
    else:
        (accepted,) = core.wanted(fx.Accept)
        assert accepted.prompt_tokens_basis == basis


def test_one_token_is_named_as_one() -> None:
    """A short prompt beside a long output is told in good English."""
    core = Driver()
    core.submit("t", max_tokens=256)
    (question,) = core.wanted(fx.CountPrompt)
    core.handle(ev.PromptCounted(question.key, 1))
    assert core.refusal().refusal.faults[0].message.startswith("the prompt has 1 token; ")


@pytest.mark.req("ORCH-4148")
def test_the_bound_by_bytes_needs_no_count_and_the_count_is_believed() -> None:
    """Short prompts are admitted at once; longer ones after the tokenizer, or an estimate that says so."""
    core = Driver(pool_settings(slots=4, strict=False))
    bases = []
    core.submit("short")
    for name, tokens in (("counted", 40), ("guessed", None)):
        core.submit(name, prompt="x" * 300)
        core.handle(ev.PromptCounted(key(name), tokens))
    bases = [(a.prompt_tokens, a.prompt_tokens_basis) for a in core.wanted(fx.Accept)]
    assert bases == [(3, "bytes_bound"), (40, "tokenizer"), (101, "estimate")]


@pytest.mark.req("ORCH-4149")
def test_only_a_certain_miss_of_the_deadline_is_refused() -> None:
    """What an empty queue could meet is accepted; with ignore_eos all of max_tokens counts."""
    core = Driver()
    core.submit("fits", deadline_ms=2)
    assert core.wanted(fx.Accept, core.last)
    core.submit("misses", deadline_ms=9, max_tokens=10, sampling=Sampling(ignore_eos=True))
    refusal = core.refusal().refusal
    assert (refusal.outcome, refusal.retry_after_ms) == (Outcome.REJECTED_DEADLINE, 10)


@pytest.mark.req("ORCH-4149")
@pytest.mark.parametrize(("tokens", "refused"), [(200, True), (None, False), (90, False)])
def test_a_bound_from_above_makes_no_miss_certain(tokens: int | None, refused: bool) -> None:
    """Only what the tokenizer counted is certain: a bound by bytes, or an estimate, may be several times what it is."""
    core = Driver(pool_settings(ctx=1_000))
    core.submit("bound", prompt="x" * 200, deadline_ms=10)
    assert core.wanted(fx.Accept, core.last)
    core.submit("asked", prompt="x" * 1_200, deadline_ms=10)
    core.handle(ev.PromptCounted(key("asked"), tokens))
    assert bool(core.wanted(fx.Refuse, core.last)) is refused


@pytest.mark.req("ORCH-4150")
def test_a_rate_limit_refuses_with_the_time_to_the_next_token() -> None:
    """One second of burst, then one task for each interval."""
    classes = (ClassSettings("interactive", 8, rate_limit_rps=2.0), ClassSettings("batch", 1))
    core = Driver(pool_settings(classes=classes))
    for name in ("a", "b"):
        core.submit(name)
    core.submit("c")
    refusal = core.refusal().refusal
    assert (refusal.outcome, refusal.retry_after_ms) == (Outcome.REJECTED_RATE, 500)
    core.submit("other class", priority="batch")
    assert core.wanted(fx.Accept, core.last)
    core.submit("c", after_ms=500)
    assert core.wanted(fx.Accept, core.last)


@pytest.mark.req("ORCH-4012", "ORCH-4118", "ORCH-4120", "ORCH-4121", "ORCH-4188")
def test_unready_unavailable_stopping_and_unrecordable_are_told_apart() -> None:
    """Each 503 has its own outcome and a time to come back."""
    core = Driver(up=False)
    core.submit("t")
    assert core.refusal().refusal.outcome is Outcome.POOL_UNREADY
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "died"))
    core.submit("t")
    assert core.refusal().refusal.outcome is Outcome.POOL_UNAVAILABLE
    core = Driver()
    core.handle(ev.JournalStalled("disk full"))
    core.submit("t")
    assert core.refusal().refusal.outcome is Outcome.JOURNAL_DOWN
    assert "disk full" in core.refusal().refusal.message
    core.handle(ev.JournalHealed())
    core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 1_000))
    core.submit("t")
    assert core.refusal().refusal.outcome is Outcome.POOL_UNREADY
    core.handle(ev.ShutdownBegan())
    core.submit("t")
    assert core.refusal().refusal.outcome is Outcome.SHUTTING_DOWN
    assert all((r.refusal.retry_after_ms or 0) >= 1 for r in core.wanted(fx.Refuse))


@pytest.mark.req("ORCH-3024", "ORCH-4065")
def test_the_same_id_is_the_same_task_for_the_same_body_and_a_conflict_for_another() -> None:
    """Enqueued and counted once; the repeat is answered alike, also while its prompt is being counted."""
    core = Driver()
    core.submit("running")
    for _ in range(2):
        core.submit("t", prompt="x" * 300)
    assert len(core.wanted(fx.CountPrompt)) == 1
    core.handle(ev.PromptCounted(key("t"), 10))
    core.submit("t", prompt="x" * 300)
    accepts = [a for a in core.wanted(fx.Accept) if a.key == key("t")]
    assert [a.repeated for a in accepts] == [False, True, True]
    assert len({(a.queue_position, a.predicted_start_ms, a.seed) for a in accepts}) == 1
    core.submit("t", prompt="another")
    refusal = core.refusal().refusal
    assert (refusal.meaning.status, refusal.faults[0].pointer) == (409, "/task_id")
    assert core.waiting() == ["t"]


@pytest.mark.req("ORCH-4168")
def test_strict_is_the_default_where_it_is_proven() -> None:
    """Omitted determinism means strict if possible, else best_effort; a failed self-test takes the promise back."""
    core = pair()
    core.submit("a", model_ref="m")
    core.submit("b", model_ref="n")
    assert [a.determinism for a in core.wanted(fx.Accept)] == ["strict", "best_effort"]
    core = Driver(up=False)
    core.ready("pr0", strict_proven=False)
    core.submit("c")
    assert core.wanted(fx.Accept)[0].determinism == "best_effort"
    core.submit("d", determinism="strict")
    assert core.refusal().refusal.faults[0].pointer == "/determinism"


@pytest.mark.req("ORCH-3014")
def test_prompt_goes_to_the_pool_whose_ctx_holds_it() -> None:
    """Of two pools with one model a prompt that only the wider one can hold waits there, however idle the other is."""
    narrow = pool_settings("a", ctx=64)
    wide = pool_settings("b", ctx=256)
    core = Driver(narrow, wide)
    core.submit("t", prompt="x" * 100, max_tokens=20)
    (task,) = core.core.state.active.values()
    assert task.pool_id == "b"


@pytest.mark.req("ORCH-4037")
def test_log_lines_tell_warmth_and_split() -> None:
    """A task's end says whether its session's KV was found, and how the model is split over devices."""
    core = Driver(pool_settings(strict=False, tensor_split=(0.25, 0.75)))
    for attempt in (1, 2):
        core.submit(f"t{attempt}", session_id="s")
        core.complete(attempt)
    ends = [e.fields for e in core.log if isinstance(e, fx.Note) and e.event == "task_ended"]
    assert [(f["kv_warmth"], f["tensor_split"]) for f in ends] == [(False, "0.25,0.75"), (True, "0.25,0.75")]
