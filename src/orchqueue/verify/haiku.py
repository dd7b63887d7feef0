"""Ask a live model for a poem that nobody could have prepared, through tasks and streams only, and judge what came.

Req: ORCH-4232, ORCH-4241
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from orchqueue.client import NO_RETRY, AsyncClient, Placement, TaskRequest
from orchqueue.client.errors import OrchQueueError, ReceiptMismatch, StreamBroken, StreamMismatch, TaskFailed
from orchqueue.client.types import Completion, End, Started
from orchqueue.verify.haiku_counting import tokens_out
from orchqueue.verify.haiku_modes import Mode, Wish
from orchqueue.verify.haiku_rules import (
    LIMIT_S,
    Evidence,
    Finding,
    Scrapes,
    Told,
    is_verified,
    judge,
    says_simulated,
    served_by,
)
from orchqueue.verify.haiku_tree import search
from orchqueue.verify.haiku_words import in_words, minute_now, new_nonce

Clock = Callable[[], int]
MAX_TOKENS: Final = 160
_SEED_LIMIT: Final = 2**31
# A counter may move a moment after the reader saw the end; a server without an end is given up a moment after the limit.
_COUNTED_WITHIN_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 0.0)
_GIVEN_UP_AFTER_S: Final = 5.0
_CANCEL_WITHIN_S: Final = 5.0
# The limit is ours to keep: the daemon refuses a deadline by a forecast, which before its first task is a guess from the
# prompt's bytes. So the task's own deadline is longer, and ends what we should fail to cancel.
_DEADLINE_RATIO: Final = 4
# Coprime to 60: few runs are spread over the hour, 60 have every minute once.
_STRIDE: Final = 17


@dataclass(frozen=True)
class Plan:
    """How to ask.

    Shape: `pool_id` and `model_ref` None leave the choice to the server; `reads_control`: whether the control plane is
    looked at, which needs its scope; `checkout`: where to look for prepared answers.
    """

    mode: Mode
    pool_id: str | None = None
    model_ref: str | None = None
    limit_s: float = LIMIT_S
    reads_control: bool = True
    checkout: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Haiku:
    """One poem, what the rules say of it, and how often it was asked for."""

    evidence: Evidence
    findings: tuple[Finding, ...]
    times_asked: int

    @property
    def verified(self) -> bool:
        """Tell whether no rule was broken."""
        return is_verified(self.findings)


async def simulated_pools(client: AsyncClient, pool_id: str | None) -> list[str]:
    """List the pools that may be asked and whose engine calls itself simulated.

    Errors: as the client's `capabilities`, which needs the scope `control`.
    Req: ORCH-4412
    """
    pools = (await client.capabilities()).pools
    return [pool.id for pool in pools if pool_id in (None, pool.id) and says_simulated(pool.engine_version)]


async def write_haiku(client: AsyncClient, plan: Plan, clock: Clock = minute_now) -> Haiku:
    """Ask for one poem and judge it; when the minute flipped meanwhile, ask exactly once more, with a new nonce.

    Errors: as the client's calls, where no task was accepted or the control plane cannot be read.
    Req: ORCH-4232, ORCH-4241
    """
    times_asked = 1
    evidence = await _ask(client, plan, clock)
    if evidence.minute_after != evidence.minute:
        times_asked = 2
        evidence = await _ask(client, plan, clock)
    return Haiku(evidence, judge(evidence), times_asked)


async def _ask(client: AsyncClient, plan: Plan, clock: Clock) -> Evidence:
    before = await client.metrics() if plan.reads_control else ""
    minute, nonce = clock(), new_nonce()
    wish = plan.mode.ask(in_words(minute), nonce)
    request = _request(plan, wish)
    begun_s = time.monotonic()
    answer, failure = await _answer(client, request, plan.limit_s)
    wall_s, minute_after = time.monotonic() - begun_s, clock()
    started, end = (answer.started, answer.end) if answer else (None, None)
    scrapes = told = None
    if plan.reads_control:
        scrapes = Scrapes(before, await _scrape_again(client, before, started, end))
        told = await _told(client, started) if started else None
    text = answer.text if answer else ""
    found = await asyncio.to_thread(search, plan.checkout, minute, nonce)
    return Evidence(
        minute=minute,
        minute_after=minute_after,
        nonce=nonce,
        prompt=wish.prompt,
        asked_seed=int(request.seed or 0),
        wall_s=wall_s,
        limit_s=plan.limit_s,
        search=found,
        text=text,
        poem=plan.mode.poem_of(text),
        failure=failure,
        started=started,
        end=end,
        scrapes=scrapes,
        told=told,
    )


def _request(plan: Plan, wish: Wish) -> TaskRequest:
    chosen: dict[str, Any] = {}
    if plan.model_ref is not None:
        chosen["model_ref"] = plan.model_ref
    if plan.pool_id is not None:
        chosen["placement"] = Placement(mode="pin", pool_ids=[plan.pool_id])
    return TaskRequest(
        task_id=str(uuid4()),
        messages=wish.messages,
        sampling=wish.sampling,
        max_tokens=MAX_TOKENS,
        seed=secrets.randbelow(_SEED_LIMIT - 1) + 1,
        deadline_ms=round(plan.limit_s * 1000) * _DEADLINE_RATIO,
        **chosen,
    )


async def _answer(client: AsyncClient, request: TaskRequest, limit_s: float) -> tuple[Completion | None, str]:
    """Post the task and read its stream to the end; the failure, where there is no end in time."""
    try:
        async with asyncio.timeout(limit_s + _GIVEN_UP_AFTER_S):
            stream = await client.run(request, retry=NO_RETRY)
            return await stream.result(), ""
    except (TaskFailed, ReceiptMismatch, StreamMismatch, StreamBroken) as error:
        return None, str(error)
    except TimeoutError:
        await _cancel(client, request)
        return None, f"no end came within {limit_s + _GIVEN_UP_AFTER_S:g} s"
    except asyncio.CancelledError:
        await _cancel(client, request)
        raise


async def _cancel(client: AsyncClient, request: TaskRequest) -> None:
    try:
        async with asyncio.timeout(_CANCEL_WITHIN_S):
            await client.cancel(str(request.task_id))
    except (OrchQueueError, TimeoutError):
        return  # its deadline ends it soon anyway


async def _scrape_again(client: AsyncClient, before: str, started: Started | None, end: End | None) -> str:
    after = await client.metrics()
    if started is None or end is None:
        return after
    labels = served_by(started, end)
    for wait_s in _COUNTED_WITHIN_S:
        if tokens_out(after, labels) - tokens_out(before, labels) >= end.tokens_out:
            break
        await asyncio.sleep(wait_s)
        after = await client.metrics()
    return after


async def _told(client: AsyncClient, started: Started) -> Told:
    pools = (await client.capabilities()).pools
    replicas = (await client.pool_health(started.pool_id)).replicas
    return Told(
        next((pool.engine_version for pool in pools if pool.id == started.pool_id), None),
        frozenset(replica.model_digest for replica in replicas if replica.model_digest),
    )


def clocks(runs: int, clock: Clock = minute_now) -> Iterator[Clock]:
    """Give each run its minute: the first has the clock's, the others minutes spread over the hour.

    Req: ORCH-4410
    """
    yield clock
    first = clock()
    for number in range(1, runs):
        yield _standing_at((first + number * _STRIDE) % 60)


def _standing_at(minute: int) -> Clock:
    return lambda: minute


@dataclass(frozen=True)
class Rate:
    """How several poems went. `broken`: how many broke each rule; times of all of them.

    Units: seconds.
    """

    runs: int
    passed: int
    broken: dict[str, int]
    median_s: float
    longest_s: float

    @property
    def percent(self) -> float:
        """Return the share of those that passed."""
        return 100 * self.passed / self.runs


def rate_of(haikus: Sequence[Haiku]) -> Rate:
    """Count what passed and what broke which rule.

    Errors: ValueError when there is none.
    """
    if not haikus:
        raise ValueError("a rate needs at least one poem")
    walls_s = [haiku.evidence.wall_s for haiku in haikus]
    broken = Counter(finding.rule for haiku in haikus for finding in haiku.findings if finding.passed is False)
    passed = sum(haiku.verified for haiku in haikus)
    return Rate(len(haikus), passed, dict(broken), statistics.median(walls_s), max(walls_s))
