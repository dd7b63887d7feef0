"""What the adapters make of engines that fail, hang and lie. Simulated: a real one does not do this on demand."""

import asyncio
import signal

import pytest

from orchqueue.adapters.engines import llamacpp, tgi, triton, vllm
from orchqueue.adapters.engines.attempt import EngineAttempt
from orchqueue.adapters.engines.conformance.listening import begin, decode
from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.selftest import Description
from orchqueue.core.request import Message, Sampling, TaskSpec
from orchqueue.ports.errors import EngineError
from orchqueue_sim.engine_faults import UNTIL_TOLD
from tests.conformance.engine.beds import MODEL_REF
from tests.conformance.engine.conftest import StartSimulated
from tests.waiting import until_async

SPEC = TaskSpec(prompt="Tell me", seed=3, max_tokens=60, sampling=Sampling(ignore_eos=True))
LONG = TaskSpec(prompt="Tell me", seed=1, max_tokens=2000, sampling=Sampling(ignore_eos=True))
SLOWLY = ("--tokens-per-s", "4")
"""So slowly a long text outlasts its test, on a busy machine and on an engine that cannot be kept from ending it."""
SOME_TOKENS = 30
"""An engine holds text back by chance, for a token or two: of so many it has shown some."""
CHATTING = sorted(name for name, kind in ENGINES.items() if "messages" in kind.offers)


@pytest.mark.parametrize(
    ("status", "failure"),
    [(400, "rejected"), (422, "rejected"), (429, "overloaded"), (409, "overloaded"), (425, "overloaded"),
     (503, "overloaded"), (500, "engine_error"), (502, "engine_error"), (401, "engine_error"), (404, "engine_error")],
)  # fmt: skip
@pytest.mark.req("ORCH-4212", "ORCH-4216")
async def test_statuses(simulate: StartSimulated, status: int, failure: str) -> None:
    """Each upstream status means one kind of failure."""
    engine = await simulate()
    await engine.set_faults(status=status)
    run = await decode(engine.replica(), SPEC)
    assert run.failure is not None
    assert run.failure[0] == failure
    assert str(status) in run.failure[1]


@pytest.mark.parametrize(
    ("fault", "failure"),
    [("eof_after", "lost"), ("error_after", "engine_error"), ("broken_utf8_after", "engine_error"),
     ("broken_json_after", "engine_error"), ("exit_after", "lost")],
)  # fmt: skip
@pytest.mark.req("ORCH-4217")
async def test_failures_in_the_stream(simulate: StartSimulated, fault: str, failure: str) -> None:
    """A stream that breaks keeps what came before, fails once, and is closed when the slot is free or the engine dead."""
    engine = await simulate("--tokens-per-s", "500")
    whole = (await decode(engine.replica(), SPEC)).text
    await engine.set_faults(**{fault: 12})
    run = await decode(engine.replica(), SPEC)
    assert run.failure is not None
    assert run.failure[0] == failure, run.failure
    assert run.text
    assert whole.startswith(run.text)


@pytest.mark.req("ORCH-4215")
async def test_split_frames_are_put_together(simulate: StartSimulated) -> None:
    """Frames that arrive in pieces of a few bytes give the same text."""
    engine = await simulate("--tokens-per-s", "1000")
    whole = await decode(engine.replica(), SPEC)
    await engine.set_faults(split_frames=True)
    split = await decode(engine.replica(), SPEC)
    assert split.text == whole.text
    assert split.completion is not None
    assert split.completion.tokens_out == 60


@pytest.mark.req("ORCH-4215")
async def test_keep_alives_are_no_text(simulate: StartSimulated) -> None:
    """Comments between the events change nothing."""
    engine = await simulate("--tokens-per-s", "1000")
    whole = await decode(engine.replica(), SPEC)
    await engine.set_faults(keep_alives=True)
    kept = await decode(engine.replica(), SPEC)
    assert kept.text == whole.text
    assert kept.completion is not None


@pytest.mark.req("ORCH-3017")
async def test_a_slot_that_ignores_the_abort_is_waited_for(
    simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the engine works on after an abort, the attempt stays open."""
    monkeypatch.setattr(vllm, "SHARED_S", 60.0)
    engine = await simulate()
    await engine.set_faults(ignore_abort_ms=UNTIL_TOLD)
    replica = engine.replica()
    run = begin(replica, LONG, on_first=lambda handle: handle.abort())
    await run.first_text.wait()
    assert await replica.is_idle() is False
    assert not run.closed_event.is_set()
    await engine.set_faults()
    await run.closed_event.wait()
    assert await replica.is_idle() is not False


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_an_engine_that_stood_still_has_seen_nothing_yet(
    simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a request must not show counts from when the engine answers: before that it may just not have looked."""
    monkeypatch.setattr(vllm, "SHARED_S", 60.0)
    for adapter in (llamacpp, vllm, tgi, triton):
        monkeypatch.setattr(adapter, "UNSEEN_S", 0.6)
    engine = await simulate()
    replica = engine.replica()
    await replica.properties()
    await engine.set_faults(queue_ms=100, ignore_abort_ms=UNTIL_TOLD)
    engine.process.send_signal(signal.SIGSTOP)
    run = begin(replica, LONG)
    attempt = run.handle
    assert isinstance(attempt, EngineAttempt)
    await until_async(lambda: attempt.sent, what="the request to be sent")
    attempt.abort()
    now_s = asyncio.get_running_loop().time
    late_s = now_s() + 0.7
    await until_async(lambda: now_s() > late_s, what="the time of an unseen request to be over")
    engine.process.send_signal(signal.SIGCONT)

    async def works() -> bool:
        return await replica.is_idle() is False

    await until_async(works, what="the request to reach its slot")
    assert not run.closed_event.is_set()
    await engine.set_faults()
    await run.closed_event.wait()
    assert await replica.is_idle() is not False


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_another_clients_work_does_not_hold_up_a_close(simulate: StartSimulated) -> None:
    """On a shared engine an abort waits for its own slot only."""
    engine = await simulate("--slots", "2", *SLOWLY)
    elsewhere = engine.replica()
    other = begin(elsewhere, LONG)
    await other.first_text.wait()
    replica = engine.replica()
    mine = begin(replica, LONG, on_first=lambda handle: handle.abort())
    await mine.closed_event.wait()
    assert not other.closed_event.is_set()
    assert await replica.is_idle() is False
    await elsewhere.close()


@pytest.mark.req("ORCH-4135")
async def test_an_engine_that_is_not_deterministic_is_not_proven(simulate: StartSimulated) -> None:
    """Texts that differ are found by the self-test, and no known answer is given."""
    engine = await simulate("--faults", '{"not_deterministic": true}', "--tokens-per-s", "1000")
    facts = await engine.replica().self_test()
    assert not facts.strict_proven
    assert facts.known_answer == ""
    assert "different texts" in facts.selftest_note


@pytest.mark.req("ORCH-4167")
async def test_several_slots_are_never_strict(simulate: StartSimulated) -> None:
    """An engine that batches is measured but not proven."""
    engine = await simulate("--slots", "4", "--tokens-per-s", "1000")
    facts = await engine.replica(slots=4).self_test()
    assert facts.slots_total == 4
    assert not facts.strict_proven
    assert facts.decode_us_per_token > 0


@pytest.mark.req("ORCH-4035")
async def test_a_simulated_engine_is_refused(simulate: StartSimulated) -> None:
    """Without the explicit flag no simulated engine passes the self-test."""
    engine = await simulate()
    with pytest.raises(EngineError, match="simulated"):
        await ENGINES[engine.engine](parse_endpoint(engine.url), Description(model_ref=MODEL_REF)).self_test()


@pytest.mark.req("ORCH-3003")
async def test_a_self_test_that_fails_says_why(simulate: StartSimulated) -> None:
    """A decode that breaks fails the self-test with the engine's words."""
    engine = await simulate("--faults", '{"status": 500}')
    with pytest.raises(EngineError, match="simulated fault"):
        await engine.replica().self_test()


@pytest.mark.req("ORCH-4219")
async def test_the_key_is_shown(simulate: StartSimulated) -> None:
    """An engine with a key is served with it and refuses without."""
    engine = await simulate("--api-key", "k3y")
    assert (await decode(engine.replica("k3y"), SPEC)).completion
    run = await decode(engine.replica(), SPEC)
    assert run.failure is not None
    assert run.failure[0] == "engine_error"


@pytest.mark.parametrize("engine", CHATTING)
async def test_abort_during_a_slow_template(simulate: StartSimulated) -> None:
    """An abort while the engine renders the chat closes at once."""
    engine = await simulate("--faults", '{"template_delay_ms": 8000}')
    replica = engine.replica()
    run = begin(replica, TaskSpec(messages=(Message("user", "a"),), seed=1))
    await until_async(replica.health)
    assert run.handle is not None
    run.handle.abort()
    await run.closed_event.wait()
    assert run.failure is None


@pytest.mark.req("ORCH-4217")
async def test_nobody_listens(simulate: StartSimulated) -> None:
    """A refused connection is a lost attempt, an unhealthy answer an EngineError."""
    engine = await simulate()
    replica = engine.replica()
    await engine.end()
    run = await decode(replica, SPEC)
    assert run.failure is not None
    assert run.failure[0] == "lost"
    with pytest.raises(EngineError):
        await replica.health()


@pytest.mark.req("ORCH-4217")
async def test_close_ends_what_runs(simulate: StartSimulated) -> None:
    """Closing a replica fails its running attempts as lost and closes them, aborted ones too."""
    engine = await simulate("--slots", "2", *SLOWLY)
    await engine.set_faults(ignore_abort_ms=UNTIL_TOLD)
    replica = engine.replica()
    runs = [begin(replica, LONG), begin(replica, LONG)]
    for run in runs:
        await run.first_text.wait()
    assert runs[1].handle is not None
    runs[1].handle.abort()
    await asyncio.sleep(0)
    await replica.close()
    assert runs[0].failure is not None
    assert runs[0].failure[0] == "lost"
    assert runs[1].failure is None
    assert all(run.closed_event.is_set() for run in runs)


async def test_a_silent_engine_can_be_aborted(simulate: StartSimulated) -> None:
    """An engine that stops talking holds its slot until the abort, then frees it."""
    engine = await simulate("--tokens-per-s", "1000")
    await engine.set_faults(silent_after=SOME_TOKENS)
    replica = engine.replica()
    run = begin(replica, SPEC)
    await run.first_text.wait()
    assert run.handle is not None
    run.handle.abort()
    await run.closed_event.wait()
    assert await replica.is_idle() is not False


@pytest.mark.req("ORCH-4064")
async def test_an_ignored_schema_is_told(simulate: StartSimulated) -> None:
    """When the engine's text does not match the schema, the attempt fails instead of ending well."""
    engine = await simulate()
    schema = '{"type":"object","properties":{"other":{}},"required":["other"]}'
    run = await decode(engine.replica(), TaskSpec(prompt="x", seed=1, sampling=Sampling(json_schema=schema)))
    assert run.completion is None
    assert run.failure is not None
    assert "schema" in run.failure[1]


@pytest.mark.req("ORCH-4137")
async def test_a_context_below_the_promise_fails_the_self_test(simulate: StartSimulated) -> None:
    """An engine whose slots are smaller than the pool's ctx does not become ready, and says both figures."""
    engine = await simulate("--ctx", "512")
    replica = engine.replica(ctx=2048)
    with pytest.raises(EngineError, match=r"512 tokens.*promises 2048"):
        await replica.self_test()
