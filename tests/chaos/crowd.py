"""The clients: each knows one task at a time, and goes on asking until it has a definite answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar
from uuid import UUID

import httpx

from orchqueue.client import NO_RETRY, RetryPolicy, TaskRequest
from orchqueue.client.errors import (
    ConnectFailed,
    NotFound,
    OrchQueueError,
    ProtocolBroken,
    ReceiptMismatch,
    Refused,
    ServerFault,
    StreamMismatch,
    TaskFailed,
    Unavailable,
)
from orchqueue.client.stream import TaskStream
from orchqueue.client.types import Token
from tests.chaos.evidence import Account, Book, Follower, Piece, Role
from tests.chaos.tap import RETRY, WatchedClient
from tests.chaos.timing import pass_time

T = TypeVar("T")

ROLES: dict[Role, int] = {"reader": 8, "pair": 3, "slow": 2, "returner": 3, "at_once": 3, "canceler": 3, "deserter": 1}
ASK_AGAIN_S = 0.15
SLOW_READER_S = 0.04
FLOOD_AT_ONCE = 40


class Crowd:
    """Clients in a circle of `size`, until told that it is enough; then each finishes what it has begun."""

    def __init__(self, url: str, book: Book, pieces: list[Piece], chance: Random, size: int) -> None:
        self._url = url
        self._book = book
        self._pieces = pieces
        self._chance = chance
        self._size = size
        self._enough = False
        self._busy: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Let them all start."""
        pools = sorted({piece.pool_id for piece in self._pieces})
        for number in range(self._size):
            # Each keeps to one pool, or all of them would soon wait for the slowest.
            pieces = [piece for piece in self._pieces if piece.pool_id == pools[number % len(pools)]]
            self._hire(self._live(Random(self._chance.getrandbits(64)), pieces))

    def enough(self) -> None:
        """Send no new tasks."""
        self._enough = True

    @property
    def busy(self) -> int:
        """Count those who have not finished yet."""
        return len(self._busy)

    async def finish(self, patience_s: float) -> None:
        """Wait until everybody has an end; who has none by then is a surprise."""
        self.enough()
        if self._busy:
            _, late = await asyncio.wait(self._busy, timeout=patience_s)
            for task in late:
                task.cancel()
                self._book.surprise(f"a client had no end {patience_s:g} s after the storm")

    def flood(self, count: int) -> None:
        """Send many tasks at once, without patience; whatever was accepted is read when the storm is over."""
        self._hire(self._flood(Random(self._chance.getrandbits(64)), count))

    def throw(self) -> None:
        """Send what no client of ours would."""
        self._hire(self._throw(self._chance.choice(HOSTILE)))

    def _hire(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (StreamMismatch, ReceiptMismatch, ProtocolBroken) as error:
            self._book.surprise(f"the client library caught: {error}")
        except OrchQueueError as error:
            self._book.surprise(f"{type(error).__name__}: {error}")

    async def _live(self, chance: Random, pieces: list[Piece]) -> None:
        async with WatchedClient(self._url, self._book) as client:
            while not self._enough:
                role = chance.choices(list(ROLES), list(ROLES.values()))[0]
                await self._task(client, chance, chance.choice(pieces), role)

    async def _task(self, client: WatchedClient, chance: Random, piece: Piece, role: Role) -> None:
        task_id = str(UUID(int=chance.getrandbits(128), version=4))
        strict = chance.random() < 0.85
        account = self._book.open(task_id, piece, role, strict=strict, may_vanish=role == "deserter")
        request = piece.request(
            task_id, strict=strict, batch=chance.random() < 0.3, stays=role != "deserter", pinned=chance.random() < 0.8
        )
        if role == "at_once":
            await self._at_once(client, account, request)
            return
        if not await self._submit(client, account, request):
            return
        match role:
            case "pair":
                await asyncio.gather(self._follow(client, account), self._follow(client, account))
            case "slow":
                await self._follow(client, account, pause_s=SLOW_READER_S)
            case "returner":
                await self._submit(client, account, request)
                await self._follow(client, account)
                await self._submit(client, account, request)
            case "canceler":
                await self._follow(client, account, leave_after=chance.randint(0, 12))
                await self._cancel(client, account)
                await self._follow(client, account)
            case "deserter":
                await self._follow(client, account, leave_after=chance.randint(1, 6))
            case _:
                await self._follow(client, account)

    async def _submit(
        self, client: WatchedClient, account: Account, request: TaskRequest, retry: RetryPolicy = RETRY
    ) -> bool:
        """Post until the answer is definite. A promise is never taken back by a later refusal."""
        while True:
            try:
                admission = await client.submit(request, retry=retry)
            except (Refused, Unavailable) as refusal:
                self._book.refuse(refusal.code or str(refusal.status))
                if refusal.retry_after_ms is None:
                    self._book.surprise(f"task {account.task_id} was refused without a hint when to return: {refusal}")
                if not account.accepted:
                    return False
                self._book.surprise(f"task {account.task_id} was promised and then refused: {refusal}")
                return True
            except ConnectFailed:
                await pass_time(ASK_AGAIN_S)
            else:
                account.accepted_at_s = account.accepted_at_s or self._book.now_s()
                account.promises.append((admission.seed, admission.determinism))
                return True

    async def _at_once(self, client: WatchedClient, account: Account, request: TaskRequest) -> None:
        """Post and read in one exchange; the first answer that comes is a promise too."""
        while True:
            try:
                stream = await client.run_at_once(request, retry=RETRY)
            except (Refused, Unavailable) as refusal:
                self._book.refuse(refusal.code or str(refusal.status))
                return
            except TaskFailed:
                await self._submit(client, account, request)
                return
            except ConnectFailed:
                await pass_time(ASK_AGAIN_S)
            else:
                account.accepted_at_s = self._book.now_s()
                account.promises.append((account.piece.seed, "strict" if account.strict else "best_effort"))
                await self._follow(client, account, opened=stream)
                return

    async def _follow(
        self,
        client: WatchedClient,
        account: Account,
        *,
        pause_s: float = 0.0,
        leave_after: int | None = None,
        opened: TaskStream | None = None,
    ) -> None:
        """Read to the end, whatever breaks, going on after the last byte that was read; or leave after some tokens."""
        follower = Follower(left=leave_after is not None)
        account.followers.append(follower)
        stream, tokens = opened or client.stream(account.task_id), 0
        while leave_after is None or tokens < leave_after:
            try:
                event = await anext(stream, None)
            except NotFound:
                account.unknown += 1
                return
            except StreamMismatch as error:
                account.mismatches.append((self._book.now_s(), str(error)))
                return
            except (ConnectFailed, ServerFault):
                await stream.aclose()
                await pass_time(ASK_AGAIN_S)
                stream = client.stream(account.task_id, last_event_id=stream.last_event_id or None)
                continue
            if event is None:
                break
            if isinstance(event, Token):
                follower.text += event.t
                tokens += 1
                if pause_s:
                    await pass_time(pause_s)
        if stream.end is not None:
            follower.end = f"end:{stream.end.finish_reason}"
        elif stream.error is not None:
            follower.end = f"error:{stream.error.code}"
        await stream.aclose()
        if follower.end:
            account.settled_at_s = account.settled_at_s or self._book.now_s()

    async def _cancel(self, client: WatchedClient, account: Account) -> None:
        """Cancel until 204, then note the text that the task has: it must never get more."""
        await self._until_told(account, lambda: client.cancel(account.task_id))
        told = await self._until_told(account, lambda: client.task(account.task_id))
        account.told_after_cancel = None if told is None else told.text

    async def _until_told(self, account: Account, ask: Callable[[], Awaitable[T]]) -> T | None:
        while True:
            try:
                return await ask()
            except NotFound:
                account.unknown += 1
                return None
            except (ConnectFailed, ServerFault, Unavailable):
                await pass_time(ASK_AGAIN_S)

    async def _flood(self, chance: Random, count: int) -> None:
        room = asyncio.Semaphore(FLOOD_AT_ONCE)
        async with WatchedClient(self._url, self._book) as client:

            async def one() -> None:
                task_id = str(UUID(int=chance.getrandbits(128), version=4))
                account = self._book.open(task_id, chance.choice(self._pieces), "flood", strict=True)
                async with room:
                    await self._submit(client, account, account.piece.request(task_id, batch=True), NO_RETRY)

            await asyncio.gather(*(one() for _ in range(count)))

    async def _throw(self, body: bytes) -> None:
        try:
            async with httpx.AsyncClient(verify=False, timeout=20) as http:
                answer = await http.post(f"{self._url}/v1/tasks", content=body)
        except httpx.HTTPError:
            return
        if answer.status_code not in (400, 413, 429, 503):
            self._book.surprise(f"a hostile body of {len(body)} bytes was answered {answer.status_code}")


HOSTILE = (
    b"[" * 100_000,
    b'{"prompt":"' + b"x" * (9 << 20) + b'"}',
    b'{"prompt":"hi","max_tokens":1e999}',
    b"\xff\xfe" * 4096,
    b'{"prompt":"hi","max_tokens":"many"}',
)
