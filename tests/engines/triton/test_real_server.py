"""What the real tritonserver does: its wire, ensembles that go on after an abort, processes that die."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import psutil
import pytest

from orchqueue.adapters.engines.conformance.listening import begin, complete, decode
from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.engines.triton import TritonReplica
from orchqueue.core.request import Sampling, TaskSpec
from tests.conformance.engine.triton_wire import EXCHANGES, exchange, parse, recorded
from tests.waiting import until
from tools.triton_repository import BLS, ENSEMBLE
from tools.triton_serve import Stack, StackSettings, running

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(180)]

SPEC = TaskSpec(prompt="Once upon a time", seed=7, max_tokens=48, sampling=Sampling(ignore_eos=True))
LONG = msgspec.structs.replace(SPEC, max_tokens=400)


def connect(stack: Stack, model: str) -> TritonReplica:
    """Connect to a model."""
    return TritonReplica(parse_endpoint(stack.model_url(model)), Description(model_ref="repo:test/real"))


@pytest.mark.parametrize("name", sorted(EXCHANGES))
@pytest.mark.req("ORCH-4222")
async def test_the_recordings_are_true(stack: Stack, name: str) -> None:
    """The server of today answers with the status, the kind of content and the members of the recording."""
    what, then = EXCHANGES[name], parse(recorded(name))
    now = parse(await asyncio.to_thread(exchange, stack.metrics_url if what.metrics else stack.url, what))
    assert (now.status, now.content_type, now.chunked) == (then.status, then.content_type, then.chunked)
    assert [sorted(event) for event in now.events] == [sorted(event) for event in then.events]
    if then.content_type == "application/json" and then.body.startswith(b"{"):
        assert set(msgspec.json.decode(now.body)) == set(msgspec.json.decode(then.body))


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_an_ensemble_that_decodes_on_after_an_abort_is_waited_for(stack: Stack) -> None:
    """Triton hands no cancel to the models of an ensemble; the attempt closes when the engine has really stopped."""
    ensemble, bls = connect(stack, ENSEMBLE), connect(stack, BLS)
    spec = msgspec.structs.replace(SPEC, max_tokens=100)
    text = (await complete(ensemble, spec))[0]
    run = begin(ensemble, spec, on_first=lambda handle: handle.abort())
    await run.first_text.wait()
    assert await bls.is_idle() is False
    await run.closed_event.wait()
    assert await bls.is_idle() is True
    assert (await complete(bls, spec))[0] == text


@pytest.mark.req("ORCH-4222")
async def test_all_text_so_far_is_the_same_text(stack: Stack, tmp_path: Path) -> None:
    """A server whose model accumulates gives the bytes of one that does not, and repeats no prompt."""
    text, told = await complete(connect(stack, BLS), SPEC)
    with running(StackSettings(accumulate_tokens=True), tmp_path) as accumulating:
        same, counted = await complete(connect(accumulating, BLS), SPEC)
    assert (same, counted.tokens_in, counted.tokens_out) == (text, told.tokens_in, told.tokens_out)


@pytest.mark.req("ORCH-4217", "ORCH-4463")
async def test_processes_that_die_are_noticed(tmp_path: Path) -> None:
    """A model whose backend dies fails in its stream; a model that dies is lost and unhealthy though Triton says ready."""
    with running(StackSettings(), tmp_path) as stack:
        replica = connect(stack, BLS)
        assert await replica.health()
        run = begin(replica, LONG)
        await run.first_text.wait()
        stack.processes["llamacpp"].kill()
        await run.closed_event.wait()
        assert run.failure is not None
        assert run.failure[0] == "engine_error"
        (stub,) = psutil.Process(stack.processes["triton"].pid).children()
        os.kill(stub.pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(stub.pid) or stub.status() == psutil.STATUS_ZOMBIE, what="the model to die")
        run = await decode(replica, SPEC)
        assert run.failure is not None
        assert run.failure[0] == "lost", run.failure
        assert not await replica.health()
        stack.processes["triton"].kill()
        stack.processes["triton"].wait()
        run = await decode(replica, SPEC)
        assert run.failure is not None
        assert run.failure[0] == "lost"
