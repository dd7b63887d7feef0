"""Runs the suite's seeds against a deployment, through tasks and streams only.

Req: ORCH-4231, ORCH-4240, ORCH-4288
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from time import monotonic
from uuid import uuid4

import msgspec
from msgspec import UNSET

from orchqueue.client import AsyncClient, Placement, RetryPolicy, Sampling, TaskRequest
from orchqueue.client.errors import InvalidRequest, NotFound, OrchQueueError, TaskFailed
from orchqueue.client.types import Token
from orchqueue.verify.findings import Findings
from orchqueue.verify.neighbours import Condition, IgnoreEos, Sessions, leave_in_the_middle, load
from orchqueue.verify.prompts import MAX_TOKENS, SEEDS, prompt_of
from orchqueue.verify.snapshot import Snapshot, split
from orchqueue.verify.target import Target

TRIES_PER_RUN = 12
CANCEL_WITHIN_S = 10.0
OnProgress = Callable[[Findings], None]


class Manner(msgspec.Struct, frozen=True):
    """How the seeds are asked.

    `under`: what goes on around them. Units: `patience_ms` is how long a refused task is asked again.
    """

    seeds: range = SEEDS
    max_tokens: int = MAX_TOKENS
    under: tuple[Condition, ...] = ()
    patience_ms: int = 60_000


class Verification:
    """Asks one target: one task at a time for each of its replicas.

    Each replica gets the seeds in an order of its own, so that no two of them ask the same thing before the same other.
    """

    def __init__(
        self, client: AsyncClient, target: Target, manner: Manner, on_progress: OnProgress | None = None
    ) -> None:
        self.findings = Findings(target, manner.seeds)
        self._client = client
        self._target = target
        self._manner = manner
        self._on_progress = on_progress
        self._retry = RetryPolicy(max_wait_ms=manner.patience_ms)
        self._ignore_eos: IgnoreEos = True
        self._tries_left = dict.fromkeys(manner.seeds, TRIES_PER_RUN * max(2, len(target.replica_ids)))
        self._begun_s = monotonic()
        self._stop = asyncio.Event()

    @property
    def took_ms(self) -> int:
        """Tell how long it has taken."""
        return round((monotonic() - self._begun_s) * 1000)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was asked otherwise than planned."""
        if self._ignore_eos is True:
            return ()
        return ("the engine cannot go on after the model's own end, so some streams are shorter",)

    async def run(self) -> Findings:
        """Run until every seed has run everywhere, or the tries are used up.

        Cancelled, it cancels its tasks and what was found until then stays in `findings`.

        Errors: what the client raises where asking again cannot help.
        """
        lanes = self._target.lanes
        try:
            async with asyncio.TaskGroup() as group:
                around = [group.create_task(load(self._client, pool_id)) for pool_id in self._loaded(lanes)]
                asking = [group.create_task(self._lane(number, pool_id)) for number, pool_id in enumerate(lanes)]
                await asyncio.wait(asking)
                for task in around:
                    task.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from failures
        return self.findings

    def _loaded(self, lanes: Iterable[str]) -> tuple[str, ...]:
        """Name a pool for each task that shall run around: two for each replica, so that one waits always."""
        return tuple(lanes) * 2 if "load" in self._manner.under else ()

    async def _lane(self, number: int, pool_id: str) -> None:
        """Ask one seed after another until nothing lacks.

        What waits in front of a busy replica goes to the one that frees: most likely that of this lane's last task.
        """
        order, chance = list(self._manner.seeds), random.Random(number)
        if number:
            chance.shuffle(order)
        sessions = Sessions() if "sessions" in self._manner.under else None
        last: str | None = None
        expected: str | None = None
        while (seed := self._next(order, expected, chance)) is not None:
            self._tries_left[seed] -= 1
            try:
                snapshot = await self._ask(pool_id, seed, sessions)
            except TaskFailed as failure:
                self.findings.fail(f"seed {seed} in pool {pool_id}: {failure}")
                continue
            if snapshot is not None:
                # Where tasks do not go where they should, any order may be the wrong one for ever; chance is not.
                expected = snapshot.replica_id if last in (None, snapshot.replica_id) else None
                last = snapshot.replica_id
                self.findings.add(snapshot)
            if self._on_progress is not None:
                self._on_progress(self.findings)

    def _next(self, order: list[int], expected: str | None, chance: random.Random) -> int | None:
        """Choose a seed that lacks where the task will likely go, else any that lacks; None when none does.

        Also with nothing left for its own replica a lane goes on: an idle replica would take the others' tasks.
        """
        lacking = [seed for seed in order if self._tries_left[seed] > 0 and self.findings.lacks(seed)]
        if expected is not None:
            for seed in lacking:
                if self.findings.lacks(seed, expected):
                    return seed
        return chance.choice(lacking) if lacking else None

    async def _ask(self, pool_id: str, seed: int, sessions: Sessions | None) -> Snapshot | None:
        """Run one seed; None where it brought nothing and has to be asked again."""
        request = self._request(pool_id, seed)
        try:
            if "cancels" in self._manner.under:
                await leave_in_the_middle(self._client, pool_id, seed, self._ignore_eos)
            if sessions is not None:
                request = await sessions.join(self._client, request)
            return await self._stream(request, seed)
        except asyncio.CancelledError:
            await self._cancel(str(request.task_id))
            raise
        except (InvalidRequest, TaskFailed) as failure:
            if (
                failure.code == "INVALID_PARAMS"
                and request.sampling is not UNSET
                and request.sampling.ignore_eos is True
            ):
                # Not every engine can; where that was not the reason, the next answer says so.
                self._ignore_eos = UNSET
                return None
            raise

    def _request(self, pool_id: str, seed: int) -> TaskRequest:
        return TaskRequest(
            task_id=str(uuid4()),
            prompt=prompt_of(seed),
            seed=seed,
            max_tokens=self._manner.max_tokens,
            determinism="strict" if self._target.strict else "best_effort",
            sampling=Sampling(ignore_eos=self._ignore_eos),
            placement=Placement(mode="pin", pool_ids=[pool_id]),
            on_disconnect="cancel",
        )

    async def _stream(self, request: TaskRequest, seed: int) -> Snapshot | None:
        stream = await self._client.run(request, retry=self._retry)
        async with stream:
            texts = [event.t async for event in stream if isinstance(event, Token)]
        if stream.error is not None:
            raise TaskFailed(stream.error, stream.text)
        assert stream.end is not None, f"task {request.task_id} has neither an end nor an error"
        if stream.end.canceled or stream.started is None:
            self.findings.fail(f"seed {seed}: task {request.task_id} was canceled by somebody else")
            return None
        receipt = stream.end.receipt
        first, later = split(texts)
        return Snapshot(
            engine=receipt.engine,
            engine_version=receipt.engine_version,
            model_digest=receipt.model_digest,
            seed=receipt.seed,
            first_tokens=first,
            digest=receipt.digest,
            decode_ms=stream.end.decode_ms,
            prompt=prompt_of(seed),
            params_digest=receipt.params_digest,
            later_tokens=later,
            finish_reason=stream.end.finish_reason,
            tokens_out=stream.end.tokens_out,
            pool_id=stream.started.pool_id,
            replica_id=stream.started.replica_id,
        )

    async def _cancel(self, task_id: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_WITHIN_S):
                await self._client.cancel(task_id)
        except NotFound:
            return  # stopped before the server had accepted it
        except (OrchQueueError, TimeoutError) as error:
            self.findings.fail(f"task {task_id} may go on: {str(error) or 'no server confirmed the cancel'}")


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """Take the first single failure out of a group."""
    found: Exception = failures
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found
