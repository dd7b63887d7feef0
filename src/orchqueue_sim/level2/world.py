"""One whole run of level 2: safety first, with everything failing that the plan says; then nothing may be owed.

Req: ORCH-4011, ORCH-4013, ORCH-4237
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from random import Random
from typing import Any
from unittest import mock

from orchqueue.adapters import system
from orchqueue.adapters.engines import llamacpp
from orchqueue.adapters.processes import host
from orchqueue_sim.agenda import BEGIN_MS
from orchqueue_sim.auditor import Violation
from orchqueue_sim.disk import Disk
from orchqueue_sim.level2.caller import Gone, ask, encode
from orchqueue_sim.level2.daemon import Daemon, Listener, VirtualTime
from orchqueue_sim.level2.engines import Stables
from orchqueue_sim.level2.inspector import Inspector
from orchqueue_sim.level2.journal import SimulatedJournal, Trouble
from orchqueue_sim.level2.operators import Operators
from orchqueue_sim.level2.plan import Plan, draw
from orchqueue_sim.level2.virtual_loop import NothingLeft, VirtualLoop, bury
from orchqueue_sim.level2.visitors import Surroundings, Visitor
from orchqueue_sim.level2.wires import Network, Weather
from orchqueue_sim.marks import Chronicle, Trace, watching
from orchqueue_sim.world import Report

PATIENCE_S = 900.0
DOOMS = ("torn_tail", "crash_before_commit", "crash_after_commit")


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self.plan = plan
        self._rng = Random(f"level 2 world {plan.seed}")
        self.loop = VirtualLoop(self._rng)
        self.weather = Weather(
            latency_ms=20 if plan.has("slow_network") else 1, cut=0.5 if plan.has("cut_writes") else 0.0
        )
        self.network = self.loop.network = Network(self.loop, self._rng, self.weather)
        self.disk = Disk()
        self.trouble = Trouble()
        self.inspector = Inspector(self.disk)
        self.inspector.engines_fail = plan.engines_fail
        self.inspector.engines_change = plan.engines_change
        self.inspector.stalled = lambda: self.trouble.shows_at(self.loop.now_s)
        self.inspector.clock = lambda: self.loop.now_s
        self.chronicle = Chronicle(lambda: BEGIN_MS + int(self.loop.now_s * 1000), trace)
        self.tell = self.chronicle.tell
        self.network.on_cut = lambda: self.chronicle.marks.add("fault cut_writes")
        if plan.has("slow_network"):
            self.chronicle.struck("slow_network", f"every piece may take {self.weather.latency_ms} ms")
        self.time = VirtualTime(self.loop)
        self.stables = Stables(plan, self.loop, self._rng, self.inspector, self.chronicle)
        self.around = Surroundings(plan, self.network, self.inspector, self._rng, self.chronicle)
        self.around.bursts = self._rng.random() < 0.5
        self.operators = Operators(self.around, self._rng)
        self.visitors = [Visitor(self.around, number) for number in range(plan.tasks)]
        self.daemon: Daemon | None = None
        self.lives = 0
        self._dooms: list[str] = []
        self._context = copy_context()
        self._restarting: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Run to the end.

        Errors: Violation.
        """
        work = self.loop.create_task(self._all())
        try:
            self.loop.run_until_complete(work)
        except NothingLeft:
            raise Violation("somebody waits for what can never happen") from None
        finally:
            self.loop.close()

    async def _all(self) -> None:
        log = logging.getLogger("uvicorn.error")
        log.addHandler(handler := Listener(self.loop.problems))
        log.propagate = False
        try:
            await self._run()
        finally:
            if self.daemon is not None:
                self.daemon.realm.kill()
            self.stables.end_leftovers()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                bury(task, copy_context())
            log.removeHandler(handler)
            log.propagate = True

    async def _run(self) -> None:
        await self._boot()
        clients = {asyncio.ensure_future(visitor.live()) for visitor in self.visitors}
        disasters = asyncio.ensure_future(self._disasters())
        await asyncio.sleep(self.plan.span_ms / 1000)
        self._dooms.clear()
        await disasters
        if self._restarting is not None:
            await self._restarting
        await self._heal()
        deadline_s = self.loop.now_s + PATIENCE_S
        while any(not client.done() for client in clients):
            self._raise_problem()
            if self.loop.now_s > deadline_s:
                owed = [v.track.number for v, c in zip(self.visitors, clients, strict=True) if not c.done()]
                raise Violation(f"clients {owed} still wait {PATIENCE_S:g} s after everything has healed")
            await asyncio.wait(clients, timeout=5.0)
        for client in clients:
            client.result()
        await self._settle()

    def _raise_problem(self) -> None:
        problems = [self.inspector.problem, *self.loop.problems]
        if self.daemon is not None:
            problems += self.daemon.figures.errors
        found = next((problem for problem in problems if problem), None)
        if found is not None:
            raise Violation(found)

    # lives

    async def _boot(self) -> None:
        self.lives += 1
        self.stables.end_leftovers()
        journal = SimulatedJournal(self.disk, self.trouble, self._rng, self.plan.disk_ms, self.chronicle)
        journal.doom, journal.on_doom = self._doom, self._die_of_doom
        self.tell("boot", f"life {self.lives}")
        self.daemon = Daemon(self.plan, self.loop, self.stables, journal, self.lives, self.plan.settings)
        await self.daemon.boot()
        self.around.stopping = False

    def _life_over(self, daemon: Daemon) -> None:
        self._raise_problem()
        self.inspector.life_over(daemon.figures.counts, daemon.journal.history)
        self._raise_problem()

    async def _disasters(self) -> None:
        """Let happen what the plan says, each at moments of its own; return when all of it is over."""
        plan, rng = self.plan, self._rng
        happen: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "engine_killed": self._kill_engine,
            "engine_deaf": self._deafen_engine,
            "zombie": self._zombify_engine,
            "busy_disk": self._busy_disk,
            "failing_disk": self._failing_disk,
            "full_disk": self._full_disk,
            "daemon_killed": self._kill_daemon,
            "shutdown": self._shut_down,
            "clock_pause": self._pause,
            "wall_jump": self._jump,
        }
        times = [
            self._at(self._bad_moment_ms(), act)
            for name, act in happen.items()
            if plan.has(name)
            for _ in range(rng.choice((1, 1, 3)))
        ]
        for fault in DOOMS:
            if plan.has(fault):
                self.loop.call_later(self._bad_moment_ms() / 1000, self._dooms.append, fault)
        if plan.has("operators"):
            times.append(self.operators.work())
        await asyncio.gather(*times)

    def _bad_moment_ms(self) -> int:
        if self._rng.random() < 0.5:
            return self.plan.peak_ms + self._rng.randint(0, 400)
        return self._rng.randint(0, self.plan.span_ms)

    @staticmethod
    async def _at(delay_ms: int, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(delay_ms / 1000)
        await act()

    async def _kill_engine(self) -> None:
        self.stables.crash_one()

    async def _deafen_engine(self) -> None:
        self.stables.deafen_one()

    async def _zombify_engine(self) -> None:
        self.stables.zombify_one()

    async def _busy_disk(self) -> None:
        self.trouble.slow_ms = self._rng.choice((100, 2_000))
        self.tell("journal", f"is slow by {self.trouble.slow_ms} ms")
        await asyncio.sleep(self._rng.choice((0.1, 1.0)))
        self.trouble.slow_ms = 0

    async def _failing_disk(self) -> None:
        await self._bad_disk("failing_disk", "input/output error", self._rng.choice((0.01, 0.3, 3.0)))

    async def _full_disk(self) -> None:
        await self._bad_disk("full_disk", "no space left on the disk", self._rng.choice((2.0, 15.0)))

    async def _bad_disk(self, fault: str, reason: str, lasts_s: float) -> None:
        self.trouble.fault, self.trouble.reason = fault, reason
        self.tell("disk", f"{reason} for {lasts_s:g} s")
        await asyncio.sleep(lasts_s)
        self.trouble.reason = ""

    async def _kill_daemon(self) -> None:
        daemon = self.daemon
        if daemon is None or self.around.stopping:
            return
        self._life_over(daemon)
        self.chronicle.struck("daemon_killed", f"kill -9 of life {self.lives}")
        self.around.stopping = True
        daemon.kill()
        await self._start_again()

    def _doom(self, records: int) -> str:
        """Name the crash that this commit meets, if one is due; only what has several records can be torn."""
        if self.around.stopping:
            return ""
        due = next((fault for fault in self._dooms if fault != "torn_tail" or records > 1), "")
        if due:
            self._dooms.remove(due)
        return due

    def _die_of_doom(self) -> None:
        """Die in the middle of a commit: the caller belongs to the realm that ends here."""
        daemon = self.daemon
        assert daemon is not None
        self.around.stopping = True
        self.inspector.life_over(daemon.figures.counts, daemon.journal.history)
        daemon.kill()
        self.daemon = None
        self._restarting = self.loop.create_task(self._start_again(), context=self._context.copy())

    async def _shut_down(self) -> None:
        daemon = self.daemon
        if daemon is None or self.around.stopping:
            return
        self.around.stopping = True
        self.chronicle.struck("shutdown", f"SIGTERM for life {self.lives}")
        knock = asyncio.ensure_future(self._knock())
        await daemon.stop(self._rng.choice((0, 200, 2_000)))
        await knock
        await asyncio.sleep(5.0)
        self._life_over(daemon)
        self._demand_nothing_left(daemon)
        daemon.realm.kill()
        await self._start_again()

    async def _knock(self) -> None:
        """Ask for one more task while the daemon stops."""
        await asyncio.sleep(self._rng.choice((0.0, 0.005)))
        body = {"prompt": "is there room for one more?", "max_tokens": 1}
        with suppress(Gone):
            await ask(self.network, encode("POST", "/v1/tasks", "t0", body))

    async def _start_again(self) -> None:
        self.daemon = None
        await asyncio.sleep(self._rng.choice((0.0, 0.05, 0.5)))
        await self._boot()

    async def _pause(self) -> None:
        """Stop the machine for a while: when it goes on, every clock has moved and nothing was done."""
        lasts_s = self._rng.choice((0.5, 5.0, 40.0))
        self.chronicle.struck("clock_pause", f"everything stands still for {lasts_s:g} s")
        self.loop.now_s += lasts_s

    async def _jump(self) -> None:
        """Set the wall clock; a daemon that runs does not care, the next one reads it."""
        self.time.wall_offset_ms += self._rng.choice((-3_600_000, -2_000, 2_000, 3_600_000))
        self.inspector.wall_set = True
        self.chronicle.struck("wall_jump", f"the wall clock is set, now {self.time.wall_offset_ms} ms off")

    async def _heal(self) -> None:
        self.tell("heal", "no more faults")
        self.around.healing = True
        self.stables.heal()
        self.weather.latency_ms, self.weather.cut = 1, 0.0
        self.trouble.reason, self.trouble.slow_ms = "", 0
        await self.operators.restore()

    # the end

    async def _settle(self) -> None:
        """Demand that nothing is owed, stop in order, and demand that nothing is left."""
        daemon = self.daemon
        assert daemon is not None
        deadline_s = self.loop.now_s + PATIENCE_S
        while self.loop.now_s < deadline_s and await self._unsettled():  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(5.0)
        self._raise_problem()
        for visitor in self.visitors:
            await self._look(visitor)
        unsettled = await self._unsettled()
        if unsettled:
            raise Violation(f"not settled after {PATIENCE_S:g} s: {unsettled}")
        self._raise_problem()
        await asyncio.sleep(1.0)
        self._demand_quiet(daemon)
        self.around.stopping = True
        await daemon.stop(1_000)
        await asyncio.sleep(5.0)
        self._life_over(daemon)
        self._demand_nothing_left(daemon)

    def _demand_quiet(self, daemon: Daemon) -> None:
        """Demand that nobody is served although nobody asks."""
        runtime = daemon.runtime
        left = {
            "readers": runtime.streams.readers,
            "attempts": list(runtime.loop.core.state.attempts),
            "connections": daemon.server.connections,
            "events": len(runtime.loop.mailbox),
        }
        for what, found in left.items():
            if found:
                raise Violation(f"left although all clients have gone: {what}: {found}")

    def _demand_nothing_left(self, daemon: Daemon) -> None:
        # An answer that the journal never let out ends with the process; the edge has given it up.
        left = [one for one in daemon.realm.left() if "run_asgi" not in one]
        if left:
            raise Violation(f"left after the daemon has stopped: {left[:5]}")
        if self.stables.processes:
            raise Violation(
                f"engines outlive the daemon that stopped: {[p.realm.name for p in self.stables.processes]}"
            )

    async def _unsettled(self) -> list[str]:
        """List engines that work and replicas that are not ready."""
        found = self.stables.busy()
        for pool in self.plan.settings.pools:
            health = await self._get(f"/v1/pools/{pool.pool_id}/health", "operator")
            for replica in health["replicas"]:
                name, state = replica["replica_id"], replica["state"]
                free, total = replica.get("slots_free"), replica.get("slots_total")
                if state != "ready" or free != total:
                    found.append(f"{name} is {state}, {free} of {total} slots are free")
        return found

    async def _look(self, visitor: Visitor) -> None:
        track = visitor.track
        if not track.accepted:
            return
        old = self.plan.has("wall_jump") or self.loop.now_s * 1000 > self.plan.settings.retention.interactive_ms
        if not (old and self.inspector.forgotten(track)):
            self.inspector.looked(track, await self._get(f"/v1/tasks/{track.task_id}", track.tenant), final=True)

    async def _get(self, path: str, tenant: str) -> dict[str, Any]:
        try:
            answer = await ask(self.network, encode("GET", path, tenant))
        except Gone as error:
            raise Violation(f"GET {path} got no answer in the end: {error}") from error
        if answer.status != 200:
            raise Violation(f"GET {path} was answered {answer.status} in the end")
        return answer.json


def run(seed: int, trace: Trace | None = None, plan: Plan | None = None) -> Report:
    """Run one seed; whatever goes wrong stands in the report.

    Req: ORCH-4237
    """
    plan = plan or draw(seed)
    report = Report(plan)
    world = World(plan, trace)
    with (
        mock.patch.object(llamacpp, "_markers", count(1)),
        mock.patch.object(system, "time", world.time),
        watching(world.chronicle.marks),
        mock.patch.object(host, "count_oom_kills", return_value=0),
    ):
        try:
            world.run()
        except Violation as wrong:
            report.problem = f"violation at {int(world.loop.now_s * 1000)} ms: {wrong}"
        except Exception:  # noqa: BLE001 - whatever is raised is what we look for
            report.problem = f"exception at {int(world.loop.now_s * 1000)} ms:\n{traceback.format_exc()}"
    report.lives, report.virtual_ms = world.lives, int(world.loop.now_s * 1000)
    report.refused, report.outcomes = world.around.refused, world.inspector.outcomes + world.inspector.marks
    report.marks = frozenset(world.chronicle.marks)
    return report
