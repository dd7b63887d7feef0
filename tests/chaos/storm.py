"""One whole run: the undisturbed references, the storm, the calm, the questions after it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from orchqueue.client import AsyncClient
from orchqueue.client.errors import ConnectFailed, NotFound, OrchQueueError, ServerFault, TaskFailed, Unavailable
from orchqueue.client.types import TaskInfo
from tests.chaos.crowd import Crowd
from tests.chaos.evidence import Account, Book, Final, Piece, Reference
from tests.chaos.judge import Counted, Violation, judge
from tests.chaos.leaks import files_left, processes_left
from tests.chaos.lives import ENTRY, Lives
from tests.chaos.monkey import Due, Monkey, Stage, plan
from tests.chaos.park import Park
from tests.chaos.proxy import Proxy
from tests.chaos.scene import EngineKind, config_text, pieces_of, simulated_engines
from tests.chaos.tap import WatchedClient
from tests.chaos.timing import pass_time

CALM_PATIENCE_S = 180.0
AT_ONCE = 8
TOKENS_PER_S = 150.0
CLIENTS = {"real": 5, "simulated": 14, "both": 15}

Tell = Callable[[str], None]
References = dict[Piece, Reference]


class Wish(msgspec.Struct, frozen=True):
    """What is to be done. `limit_s`: when the storm ends also where strokes are left."""

    seed: int
    kind: EngineKind
    length_s: float
    limit_s: float
    kills_daemon: int
    kills_replicas: int
    entry: tuple[str, ...] = ENTRY


class Verdict(msgspec.Struct):
    """What came of it. `cut_short`: somebody stopped it, and it was judged by what there was."""

    wish: Wish
    book: Book
    references: References
    violations: list[Violation]
    kills: dict[str, int]
    lives: int
    storm_s: float
    resets: int
    cut_short: bool
    place: Path


async def run(wish: Wish, tell: Tell, stop: asyncio.Event, references: References | None = None) -> Verdict:
    """Run and judge. `stop` ends the storm early; what was promised by then is judged all the same.

    `references`: what an earlier run of the same kind found undisturbed; without them the pieces are run first.

    Req: ORCH-4346
    """
    place = _new_place()
    park = Park(simulated_engines(wish.kind), TOKENS_PER_S)
    await park.open()
    try:
        config = place / "orchqueue.yaml"
        config.write_text(config_text(wish.kind, park.engines))
        if references is None:
            references = await _undisturbed(place / "undisturbed", config, pieces_of(wish.kind), tell)
        return await _weather(wish, place, config, park, references, tell, stop)
    finally:
        await park.close()


def _new_place() -> Path:
    place = Path(tempfile.mkdtemp(prefix="orchqueue-chaos-"))
    (place / "undisturbed").mkdir()
    return place


async def _undisturbed(place: Path, config: Path, pieces: list[Piece], tell: Tell) -> References:
    """Run every piece once on a daemon that nobody disturbs."""
    book, proxy = Book(), Proxy()
    await proxy.open()
    lives = Lives(place, config, proxy, book)
    await lives.begin()
    found: References = {}
    try:
        await lives.wait_serving()
        async with AsyncClient(proxy.url) as client:
            room = asyncio.Semaphore(AT_ONCE)

            async def one(number: int, piece: Piece) -> None:
                async with room:
                    request = piece.request(f"00000000-0000-4000-8000-{number:012x}")
                    done = await (await client.run(request)).result()
                    found[piece] = Reference(done.text, done.end.finish_reason)

            await _until_ready(client)
            await asyncio.gather(*(one(number, piece) for number, piece in enumerate(pieces)))
        await lives.stop()
    finally:
        if lives.process is not None and lives.process.returncode is None:
            await lives.kill()
        await proxy.close()
    assert not book.surprises, book.surprises
    tell(f"{len(found)} pieces ran undisturbed, {sum(len(r.text) for r in found.values())} characters")
    return found


async def _until_ready(client: AsyncClient) -> None:
    while True:
        try:
            if all(pool.replicas_ready == pool.replicas_total for pool in await client.pools()):
                return
        except OrchQueueError:
            pass
        await pass_time(0.05)


async def _weather(
    wish: Wish,
    place: Path,
    config: Path,
    park: Park,
    references: References,
    tell: Tell,
    stop: asyncio.Event,
) -> Verdict:
    chance, book, proxy = Random(wish.seed), Book(), Proxy()
    await proxy.open()
    lives = Lives(place, config, proxy, book, wish.entry)
    crowd = Crowd(proxy.url, book, list(references), Random(chance.getrandbits(64)), CLIENTS[wish.kind])
    stage = Stage(wish.kind, lives, park, proxy, crowd, book, config)
    monkey = Monkey(stage, Random(chance.getrandbits(64)))
    strokes = plan(Random(chance.getrandbits(64)), wish.length_s, wish.kills_daemon, wish.kills_replicas)
    counted = Counted(0, 0, 0, 0)
    storm_s = 0.0
    try:
        await lives.begin()
        await lives.wait_serving()
        crowd.begin()
        try:
            await _storm(wish, strokes, monkey, stage, tell, stop)
        except (TimeoutError, ChildProcessError) as error:
            book.surprise(f"the storm ended early: {error}")
        storm_s = book.now_s()
        await monkey.rest()
        tell(f"calm after {storm_s:.0f} s; waiting for {crowd.busy} clients")
        counted = await _calm(stage, tell)
    finally:
        if lives.process is not None and lives.process.returncode is None:
            await lives.kill()
        await proxy.close()
    violations = judge(book, references, counted)
    violations += [Violation("-", "process", text) for text in await processes_left(lives.data_dir)]
    violations += [Violation("-", "file", text) for text in files_left(lives.data_dir, lives.scratch)]
    return Verdict(
        wish, book, references, violations, monkey.kills, lives.count, storm_s, proxy.resets, stop.is_set(), place
    )  # fmt: skip


async def _storm(wish: Wish, strokes: list[Due], monkey: Monkey, stage: Stage, tell: Tell, stop: asyncio.Event) -> None:
    """Carry out the plan, each stroke when it is due or as soon after as the machine can."""
    began_s = stage.book.now_s()
    told_s = began_s
    for due in [*strokes, Due(wish.length_s, "")]:
        wait_s = began_s + due.at_s - stage.book.now_s()
        waiter = asyncio.create_task(stop.wait())
        await asyncio.wait({waiter}, timeout=max(0.0, wait_s))
        waiter.cancel()
        if stop.is_set() or stage.book.now_s() - began_s > wish.limit_s:
            return
        if due.act:
            await monkey.strike(due.act)
        if stage.book.now_s() - told_s > 15:
            told_s = stage.book.now_s()
            accepted = stage.book.accepted()
            settled = sum(account.settled_at_s > 0 for account in accepted)
            tell(
                f"{told_s - began_s:5.0f} s: {len(accepted)} accepted, {settled} settled, "
                f"{monkey.kills}, life {stage.lives.count}, {len(stage.book.surprises)} surprises"
            )


async def _calm(stage: Stage, tell: Tell) -> Counted:
    """Let everybody finish, ask for every end, and ask again after one more restart."""
    book, lives = stage.book, stage.lives
    await stage.crowd.finish(CALM_PATIENCE_S)
    async with WatchedClient(stage.proxy.url, book) as client:
        await _ask_ends(client, book, tell, whole=True)
        await lives.stop()
        await lives.begin()
        await lives.wait_serving()
        await _ask_ends(client, book, tell, whole=False)
        await _until_ready(client)
        await _idle(client, book)
        rows = (await client.usage()).rows
    await lives.stop()
    return Counted(
        sum(row.accepted for row in rows),
        sum(row.succeeded for row in rows),
        sum(row.failed for row in rows),
        sum(row.canceled for row in rows),
    )


async def _ask_ends(client: WatchedClient, book: Book, tell: Tell, *, whole: bool) -> None:
    """Ask how each task stands; `whole`: also read its stream from the first byte once more."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(account: Account) -> None:
        async with room:
            if whole and account.accepted:
                try:
                    await client.stream(account.task_id).result()
                except (TaskFailed, NotFound):
                    pass
                except OrchQueueError as error:
                    book.surprise(f"reading task {account.task_id} again: {error}")
            account.finals.append(await _final(client, account.task_id))
            account.settled_at_s = account.settled_at_s or book.now_s()

    await asyncio.gather(*(one(account) for account in book.accounts.values()))
    tell(f"asked for the ends of {len(book.accounts)} tasks")


async def _final(client: WatchedClient, task_id: str) -> Final:
    while True:
        try:
            return _as_final(await client.task(task_id))
        except NotFound:
            return Final("unknown", "", "", "", "", durable=True)
        except (ConnectFailed, ServerFault, Unavailable):
            await pass_time(0.1)


def _as_final(info: TaskInfo) -> Final:
    receipt = info.receipt if isinstance(info.receipt, msgspec.Struct) else None
    error = info.error if isinstance(info.error, msgspec.Struct) else None
    return Final(
        info.state,
        info.text,
        info.finish_reason if isinstance(info.finish_reason, str) else "",
        error.code if error is not None else "",
        receipt.digest if receipt is not None else "",
        durable=receipt is None or receipt.durable is not False,
    )


async def _idle(client: WatchedClient, book: Book) -> None:
    """See every slot free and every queue empty: whatever is still held is held by nobody."""
    for pool in await client.pools():
        held = pool.slots_total - pool.slots_free
        waiting = pool.queue_depth.interactive + pool.queue_depth.batch
        if held or waiting:
            book.surprise(f"pool {pool.id} holds {held} slots and {waiting} waiting tasks for nobody")
