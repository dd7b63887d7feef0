"""Who breaks things: a plan drawn from a seed, carried out against processes that are as slow as they are.

Req: ORCH-4242
"""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

from orchqueue.client import AsyncClient
from orchqueue.client.errors import InvalidRequest, OrchQueueError
from tests.chaos.crowd import Crowd
from tests.chaos.evidence import Book
from tests.chaos.leaks import spawned
from tests.chaos.lives import Lives
from tests.chaos.park import Engine, Park
from tests.chaos.proxy import Proxy
from tests.chaos.scene import SIDE, SIMULATED_MODEL, EngineKind, config_text
from tests.chaos.timing import pass_time

# How often a minute, beside the kills, which are counted.
OTHERS = {
    "stop_daemon": 0.7,
    "freeze_daemon": 1.5,
    "freeze_replica": 2.5,
    "starve_replica": 1.0,
    "fill_disk": 1.0,
    "cut": 6.0,
    "hold": 1.5,
    "flood": 1.0,
    "throw": 1.5,
    "drain": 0.7,
    "reload": 0.7,
    "hang_up": 1.0,
    "post_config": 1.0,
    "break_config": 0.7,
}
KILL_OF_DAEMON, KILL_OF_REPLICA = "kill_daemon", "kill_replica"


class Stage(NamedTuple):
    """Everything that the monkey can reach."""

    kind: EngineKind
    lives: Lives
    park: Park
    proxy: Proxy
    crowd: Crowd
    book: Book
    config: Path


class Due(NamedTuple):
    """One stroke of the plan. Units: seconds from the beginning of the storm."""

    at_s: float
    act: str


def plan(chance: Random, length_s: float, kills_daemon: int, kills_replicas: int) -> list[Due]:
    """Spread the strokes over the storm, in the order of their times."""
    strokes = [
        Due((number + chance.random()) * length_s / count, act)
        for act, count in ((KILL_OF_DAEMON, kills_daemon), (KILL_OF_REPLICA, kills_replicas))
        for number in range(count)
    ]
    for act, a_minute in OTHERS.items():
        expected = a_minute * length_s / 60
        count = int(expected) + (chance.random() < expected % 1)
        strokes += [Due(chance.random() * length_s, act) for _ in range(count)]
    return sorted(strokes)


def starve(pid: int) -> None:
    """Let a process have no more memory than it has: what it asks for from now on fails.

    Errors: psutil.NoSuchProcess.
    """
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (1, hard))
    except ProcessLookupError as error:
        raise psutil.NoSuchProcess(pid) from error


class Monkey:
    """Carries a plan out, one stroke at a time; what a machine is too slow for happens later, in order."""

    def __init__(self, stage: Stage, chance: Random) -> None:
        self._stage = stage
        self._chance = chance
        self._later: set[asyncio.Task[None]] = set()
        self.kills = {KILL_OF_DAEMON: 0, KILL_OF_REPLICA: 0}
        self._acts: dict[str, Callable[[], Awaitable[None]]] = {
            KILL_OF_DAEMON: self._kill_daemon,
            KILL_OF_REPLICA: self._kill_replica,
            "stop_daemon": self._stop_daemon,
            "freeze_daemon": self._freeze_daemon,
            "freeze_replica": self._freeze_replica,
            "starve_replica": self._starve_replica,
            "fill_disk": self._fill_disk,
            "cut": self._cut,
            "hold": self._hold,
            "flood": self._flood,
            "throw": self._throw,
            "drain": self._drain,
            "reload": self._reload,
            "hang_up": self._hang_up,
            "post_config": self._post_config,
            "break_config": self._break_config,
        }

    async def strike(self, act: str) -> None:
        """Do one thing; a call that fails because something else is down is part of it."""
        try:
            await self._acts[act]()
        except (OrchQueueError, psutil.Error):
            self._stage.book.strike(f"{act}_missed")

    async def rest(self) -> None:
        """End what still goes on, and put everything right."""
        if self._later:
            await asyncio.wait(self._later)
        stage = self._stage
        stage.proxy.flow()
        stage.lives.thaw()
        stage.lives.free_disk()
        stage.config.write_text(config_text(stage.kind, stage.park.engines))
        await stage.park.settle()

    async def _kill_daemon(self) -> None:
        """Kill it, and now and then its next life while it still begins."""
        lives, chance = self._stage.lives, self._chance
        await self._let_something_run()
        await lives.kill()
        self._count(KILL_OF_DAEMON)
        await pass_time(chance.random() * 0.3)
        await lives.begin()
        await lives.wait_serving()

    async def _let_something_run(self) -> None:
        """Give a life now and then time to serve: one that is always killed at once would prove little."""
        if self._chance.random() < 0.75:
            await pass_time(0.3 + self._chance.random())

    async def _stop_daemon(self) -> None:
        self._stage.book.strike("stop_daemon")
        await self._stage.lives.stop()
        await self._stage.lives.begin()
        await self._stage.lives.wait_serving()

    async def _freeze_daemon(self) -> None:
        self._stage.book.strike("freeze_daemon")
        self._stage.lives.freeze()
        await pass_time(0.2 + self._chance.random() * 2)
        self._stage.lives.thaw()

    async def _kill_replica(self) -> None:
        """Kill an engine's process: one that serves, or one that only begins."""
        stage, chance = self._stage, self._chance
        pids = spawned(stage.lives.data_dir)
        here = [engine for engine in stage.park.engines if not engine.away and stage.kind != "real"]
        if not pids and not here:
            await pass_time(0.2)
            self._stage.book.strike("kill_replica_missed")
            return
        if chance.random() < 0.7:
            # Who dies in the middle of a text gives more to do than who dies idle.
            here = [engine for engine in here if await engine.speaks()] or here
        victims: list[int | Engine] = [*pids, *here]
        chosen = chance.choice(victims)
        if isinstance(chosen, int):
            psutil.Process(chosen).kill()
        else:
            await stage.park.kill(chosen, chance.random() * 0.5)
        self._count(KILL_OF_REPLICA)

    async def _freeze_replica(self) -> None:
        stage, chance = self._stage, self._chance
        pids = spawned(stage.lives.data_dir)
        pause_s = 0.2 + chance.random() * 2
        stage.book.strike("freeze_replica")
        if pids and (stage.kind == "real" or chance.random() < 0.5):
            process = psutil.Process(chance.choice(pids))
            process.suspend()
            self._afterwards(pause_s, process.resume)
        else:
            engine = chance.choice(stage.park.engines)
            engine.signal(signal.SIGSTOP)
            self._afterwards(pause_s, lambda: engine.signal(signal.SIGCONT))

    async def _starve_replica(self) -> None:
        """Let an engine get no more memory for a while; whether it dies of it is its own affair, at the end it does."""
        stage, chance = self._stage, self._chance
        if pids := spawned(stage.lives.data_dir):
            pid = chance.choice(pids)
            stage.book.strike("starve_replica")
            starve(pid)
            self._afterwards(1.0, lambda: self._end_starved(psutil.Process(pid).kill))
            return
        engine = chance.choice(stage.park.engines)
        stage.book.strike("starve_replica")
        starve(engine.pid)
        self._afterwards(1.0, lambda: self._end_starved(lambda: self._start(stage.park.kill(engine, 0.2))))

    def _end_starved(self, kill: Callable[[], None]) -> None:
        """Note the kill as a stroke of its own: who came to the engine meanwhile was not there when it began to starve."""
        self._stage.book.strike("end_starved")
        kill()

    async def _fill_disk(self) -> None:
        """Let the daemon's disk be full for a while; in some cases it is killed in that state."""
        lives, chance = self._stage.lives, self._chance
        limit_bytes = lives.fill_disk()
        self._stage.book.strike("fill_disk", f"files end at {limit_bytes} bytes")
        await pass_time(0.3 + chance.random() * 3)
        if chance.random() < 0.3:
            await lives.kill()
            self._count(KILL_OF_DAEMON)
            await lives.begin()
            await lives.wait_serving()
        lives.free_disk()

    async def _cut(self) -> None:
        cut = self._stage.proxy.cut(self._chance, self._chance.choice((0.2, 0.5, 1.0)))
        self._stage.book.strike("cut", f"{cut} connections")

    async def _hold(self) -> None:
        self._stage.book.strike("hold")
        self._stage.proxy.hold()
        self._afterwards(0.2 + self._chance.random(), self._stage.proxy.flow)

    async def _flood(self) -> None:
        count = self._chance.randint(40, 160)
        self._stage.book.strike("flood", f"{count} tasks")
        self._stage.crowd.flood(count)

    async def _throw(self) -> None:
        self._stage.book.strike("throw")
        self._stage.crowd.throw()

    async def _drain(self) -> None:
        """Drain the side pool, and have it serve again a while later.

        It is noted before and after: what the pool accepts until the answer is drained as well.
        """
        async with self._control() as control:
            self._stage.book.strike("drain_asked")
            await control.drain(SIDE, deadline_ms=self._chance.randint(200, 3000))
            self._stage.book.strike("drain")
        self._afterwards(2.0, lambda: self._start(self._reload()))

    async def _reload(self) -> None:
        async with self._control() as control:
            self._stage.book.strike("reload_asked")
            await control.reload(SIDE, SIMULATED_MODEL)
            self._stage.book.strike("reload")

    async def _hang_up(self) -> None:
        self._stage.book.strike("hang_up")
        self._write_config()
        self._stage.lives.hang_up()

    async def _post_config(self) -> None:
        self._write_config()
        async with self._control() as control:
            self._stage.book.strike("post_config")
            await control.reload_config()

    async def _break_config(self) -> None:
        """Offer a file with a mistake: it has to be refused."""
        config = self._stage.config
        good = config.read_text()
        config.write_text(good + "no_such_section: 1\n")
        try:
            async with self._control() as control:
                self._stage.book.strike("break_config")
                await control.reload_config()
                self._stage.book.surprise("a configuration with an unknown section was taken")
        except InvalidRequest:
            pass
        finally:
            config.write_text(good)

    def _write_config(self) -> None:
        stage, chance = self._stage, self._chance
        text = config_text(
            stage.kind,
            stage.park.engines,
            capacity=chance.choice((32, 48, 64)),
            batch_weight=chance.randint(1, 4),
            # In force from the next life on; a kill of the daemon alone takes nothing in either.
            durability=chance.choice(("full", "relaxed")),
        )
        stage.config.write_text(text)

    def _control(self) -> AsyncClient:
        """Reach the daemon directly: an operator's shell is on its machine."""
        return AsyncClient(f"http://127.0.0.1:{self._stage.proxy.target}")

    def _count(self, act: str) -> None:
        self.kills[act] += 1
        self._stage.book.strike(act)

    def _afterwards(self, after_s: float, act: Callable[[], None]) -> None:
        async def wait_and_act() -> None:
            await pass_time(after_s)
            try:
                act()
            except psutil.Error:
                # The process has been killed in its sleep.
                return

        self._start(wait_and_act())

    def _start(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except OrchQueueError:
                return

        task = asyncio.create_task(guarded())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
