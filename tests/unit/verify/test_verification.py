"""How seeds are asked: what is tried again, how often, and what an engine lacks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Self, cast

import pytest
from msgspec import UNSET

from orchqueue.client import AsyncClient, TaskRequest
from orchqueue.client.errors import InvalidRequest, NotFound
from orchqueue.client.types import End, ErrorEnvelope, Event, Receipt, Started, Token
from orchqueue.verify.determinism import TRIES_PER_RUN, Manner, Verification
from orchqueue.verify.findings import Report
from orchqueue.verify.neighbours import Condition
from orchqueue.verify.target import Target
from tests.waiting import until_async

Fate = Callable[[TaskRequest], str]
PAIR = Target(("p", "p"), ("p-0", "p-1"))
SEEDS = range(1001, 1005)


class Stream:
    """The stream of one task that ran on a replica and came to some end."""

    def __init__(self, request: TaskRequest, replica_id: str, fate: str) -> None:
        self._texts = [f"{request.prompt}", f" {request.seed}", " text"] if fate != "other" else ["else"]
        digest = sha256("".join(self._texts).encode()).hexdigest()
        receipt = Receipt(
            digest=digest, seed=cast("int", request.seed), params_digest="", sampler_profile_version="v1", engine="llamacpp",
            engine_version="1", model_digest="", attempts=1, durable=True,
        )  # fmt: skip
        self.text = ""
        self.error = failed("WORKER_RESET") if fate == "fails" else None
        self.started = Started(
            queue_position=0, predicted_start_ms=0, seed=receipt.seed, pool_id="p", replica_id=replica_id, engine_version="1",
            model_digest="", determinism="strict", queue_time_ms=0,
        )  # fmt: skip
        self.end = End(tokens_out=3, decode_ms=1, finish_reason="length", canceled=fate == "canceled", receipt=receipt)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def __aiter__(self) -> AsyncIterator[Event]:
        for index, text in enumerate(self._texts):
            yield Token(t=text, i=index)


class Deployment:
    """Two replicas that take the tasks in turn, and end each as its fate says."""

    def __init__(self, fate: Fate = lambda _: "ends") -> None:
        self.asked: list[TaskRequest] = []
        self.canceled: list[str] = []
        self._turns = itertools.cycle(PAIR.replica_ids)
        self._fate = fate

    async def run(self, request: TaskRequest, **_: object) -> Stream:
        """Run a task."""
        self.asked.append(request)
        fate = self._fate(request)
        await asyncio.sleep(0)
        if fate == "refused":
            raise InvalidRequest(400, "no", envelope=failed("INVALID_PARAMS"))
        return Stream(request, next(self._turns), fate)

    async def cancel(self, task_id: str) -> None:
        """Cancel a task."""
        self.canceled.append(task_id)


def failed(code: str) -> ErrorEnvelope:
    """Make an error."""
    return ErrorEnvelope(code=code, message=f"it is {code}", retriable=True, correlation_id="c")  # type: ignore[arg-type]


async def verify(deployment: Deployment, *under: Condition) -> Report:
    """Verify a few seeds."""
    verification = Verification(cast("AsyncClient", deployment), PAIR, Manner(seeds=SEEDS, under=under))
    await verification.run()
    return verification.findings.report(40, 0, (), verification.notes)


@pytest.mark.req("ORCH-4231")
async def test_each_task_is_strict_pinned_and_of_the_fixed_set() -> None:
    """Every request carries the promise, its pool, its seed and a prompt of the suite; no two share an id."""
    deployment = Deployment()
    report = await verify(deployment)
    assert report.verdict == "equal"
    assert {one.determinism for one in deployment.asked} == {"strict"}
    assert len({one.task_id for one in deployment.asked}) == len(deployment.asked)
    for one in deployment.asked:
        assert one.placement is not UNSET
        assert (one.placement.mode, one.placement.pool_ids) == ("pin", ["p"])


@pytest.mark.req("ORCH-4402")
@pytest.mark.parametrize(("fate", "told"), [("fails", "WORKER_RESET"), ("canceled", "canceled by somebody else")])
async def test_tasks_that_never_end_well_are_tried_a_bounded_number_of_times(fate: str, told: str) -> None:
    """A seed whose tasks fail or are canceled is not verified; it is not asked for ever, and the reason is told."""
    deployment = Deployment(lambda request: fate if request.seed == 1002 else "ends")
    report = await verify(deployment)
    assert (report.verdict, report.seeds_missing) == ("incomplete", (1002,))
    assert told in report.failures[0]
    assert len(deployment.asked) <= TRIES_PER_RUN * 2 * len(SEEDS)


@pytest.mark.req("ORCH-4231")
async def test_an_engine_that_cannot_ignore_the_end_is_asked_without() -> None:
    """Not every engine can go on after the model's own end; the streams are shorter then, and the report says so."""

    def fate(request: TaskRequest) -> str:
        return "refused" if request.sampling is not UNSET and request.sampling.ignore_eos is True else "ends"

    report = await verify(Deployment(fate))
    assert report.verdict == "equal"
    assert "cannot go on after the model's own end" in report.notes[-1]


@pytest.mark.req("ORCH-4403")
@pytest.mark.parametrize("can", [True, False])
async def test_who_is_canceled_would_not_have_ended_by_itself(can: bool) -> None:
    """A neighbour goes on after the model's own end where the engine can, and is canceled; where it cannot, it is asked without."""

    def ignores(request: TaskRequest) -> bool:
        return request.sampling is not UNSET and request.sampling.ignore_eos is True

    deployment = Deployment(lambda request: "ends" if can or not ignores(request) else "refused")
    report = await verify(deployment, "cancels")
    assert report.verdict == "equal"
    neighbours = {str(one.task_id): ignores(one) for one in deployment.asked if one.determinism == "best_effort"}
    assert {neighbours[task_id] for task_id in deployment.canceled} == {can}
    assert len(deployment.canceled) >= 2 * len(SEEDS)


@pytest.mark.req("ORCH-4231")
async def test_a_request_that_stays_refused_is_told_as_it_is() -> None:
    """What the server says of a bad request reaches the user."""
    with pytest.raises(InvalidRequest):
        await verify(Deployment(lambda _: "refused"))


@pytest.mark.req("ORCH-4287")
async def test_a_text_that_differs_is_found() -> None:
    """One odd answer among all is enough."""
    odd = itertools.count()
    report = await verify(Deployment(lambda request: "other" if request.seed == 1003 and next(odd) == 1 else "ends"))
    assert (report.verdict, report.seeds_different) == ("different", (1003,))


@pytest.mark.req("ORCH-4402")
async def test_a_task_that_was_never_accepted_is_not_said_to_go_on() -> None:
    """Stopped while the server still refuses its tasks, nothing is left behind, and no report says that something may be."""

    class FullDeployment(Deployment):
        async def run(self, request: TaskRequest, **_: object) -> Stream:
            self.asked.append(request)
            await asyncio.Event().wait()
            raise AssertionError

        async def cancel(self, task_id: str) -> None:
            self.canceled.append(task_id)
            raise NotFound(404, f"no task {task_id}")

    deployment = FullDeployment()
    verification = Verification(cast("AsyncClient", deployment), PAIR, Manner(seeds=SEEDS))
    running = asyncio.create_task(verification.run())
    await until_async(lambda: len(deployment.asked) == 2, what="both lanes to ask")
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert len(deployment.canceled) == 2
    assert verification.findings.failures == []
