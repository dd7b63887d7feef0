"""One life of the daemon: the runtime and the HTTP edge as `composition` joins them, in a realm of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

from orchqueue.adapters.system import SystemClock
from orchqueue.core.ids import Tenant
from orchqueue.core.settings import Settings
from orchqueue.http.app import build_app
from orchqueue.http.auth import Access
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.server import EdgeServer
from orchqueue.ports.auth import Identity, Scope
from orchqueue.ports.errors import JournalError
from orchqueue.ports.telemetry import LogValue
from orchqueue.runtime.gate import NewSettings
from orchqueue.runtime.lifecycle import Resources, Runtime
from orchqueue.runtime.supervision import Supervision
from orchqueue_sim.agenda import BEGIN_MS
from orchqueue_sim.level2.engines import Host, Stables
from orchqueue_sim.level2.journal import SimulatedJournal
from orchqueue_sim.level2.plan import Plan
from orchqueue_sim.level2.virtual_loop import Realm, VirtualLoop, in_dead_realm
from orchqueue_sim.level2.wires import Door

ADDRESS = ("127.0.0.1", 8080)
COUNTED = ("tasks_enqueued_total", "tasks_started_total", "tasks_canceled_total", "tokens_out_total")


class VirtualTime:
    """Stands for the module `time` where the system's clock is read: the wall can be set, the other only goes on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.wall_offset_ms = 0

    def time_ns(self) -> int:
        """Read the wall clock."""
        return (BEGIN_MS + self.wall_offset_ms) * 1_000_000 + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Read the clock that nobody can set."""
        return int(self._loop.now_s * 1000) * 1_000_000


class Keys:
    """Knows a key for every tenant: its name."""

    def verify(self, token: str) -> Identity | None:
        """Tell whose key it is."""
        scopes: frozenset[Scope] = frozenset({"tasks", "control"} if token == "operator" else {"tasks"})
        return Identity(Tenant(token), f"key of {token}", scopes)


class Figures:
    """The telemetry port: counters that can be compared, and log lines that must not be errors."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.errors: list[str] = []

    def count(self, name: str, labels: tuple[str, ...], amount: int) -> None:
        """Add to a counter."""
        if name in COUNTED:
            self.counts[name, labels[-1] if name == "tasks_canceled_total" else ""] += amount

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Take a value."""

    def log(self, level: str, event: str, fields: Mapping[str, LogValue]) -> None:
        """Keep what should never be said."""
        if event in ("bug", "internal_error"):
            self.errors.append(f"{level} {event}: {dict(fields)}")


class Daemon:
    """The real runtime, app and edge over simulated ports."""

    def __init__(
        self,
        plan: Plan,
        loop: VirtualLoop,
        stables: Stables,
        journal: SimulatedJournal,
        number: int,
        settings: Settings,
    ) -> None:
        self.number = number
        self.realm = Realm(loop, f"daemon {number}")
        self.journal = journal
        self.figures = Figures()
        self.stopping = False
        self._plan, self._loop, self._stables = plan, loop, stables
        self._clock = SystemClock()
        self._settings = settings
        self.runtime: Runtime
        self.server: EdgeServer

    async def boot(self) -> None:
        """Start serving."""
        await self.realm.begin(self._boot())

    async def _boot(self) -> None:
        plan = self._plan
        hosts = {pool.pool_id: Host(self._stables, pool) for pool in self._settings.pools}
        pool_of = {replica.replica_id: pool.pool_id for pool in self._settings.pools for replica in pool.replicas}
        self.runtime = runtime = Runtime(
            self._settings,
            Resources(
                clock=self._clock,
                journal=self.journal,
                telemetry=self.figures,
                make_supervisor=lambda post: Supervision(hosts, pool_of, post),
                settings_source=self,
                on_bug=self._on_bug,
                stall_ms=plan.stall_ms,
                stalled_reader_ms=10_000,
            ),
        )
        limits = EdgeLimits(send_buffer_bytes=plan.send_buffer_bytes)
        app = build_app(runtime.gate, Access(Keys()), limits, lambda _pools: b"", self.figures.log)
        self.server = EdgeServer(app, runtime.streams, limits)
        # The order in which connections are swept and closed must not hang on addresses in memory.
        self.server._state.connections = InOrder()  # noqa: SLF001
        await self.server.start(cast("list[socket.socket]", [Door(ADDRESS)]))
        await runtime.start()

    def kill(self) -> None:
        """Die at once."""
        self.journal.crash()
        self.realm.kill()

    async def stop(self, grace_ms: int) -> None:
        """End in order, as SIGTERM has it."""
        self.stopping = True
        await self.realm.begin(self._stop(grace_ms))

    async def _stop(self, grace_ms: int) -> None:
        self.runtime.begin_shutdown()
        deadline_s = self._loop.now_s + grace_ms / 1000
        while self.runtime.is_at_work() and self._loop.now_s < deadline_s:  # noqa: ASYNC110 - as the daemon waits
            await asyncio.sleep(0.05)
        await self.server.stop()
        try:
            await self.runtime.stop()
        except JournalError:
            return

    def renew(self) -> NewSettings:
        """Find the settings that are in force already."""
        return NewSettings(self._settings)

    def revert(self) -> NewSettings:
        """Find the same."""
        return NewSettings(self._settings)

    def adopt(self) -> None:
        """Note nothing: there is nothing else."""

    def _on_bug(self, error: Exception) -> None:
        self.figures.errors.append("".join(traceback.format_exception(error)))


class InOrder(set[Any]):
    """A set that is walked in the order in which things were added."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[object, None] = {}

    def add(self, one: object) -> None:
        """Add at the end."""
        super().add(one)
        self._order[one] = None

    def discard(self, one: object) -> None:
        """Remove."""
        super().discard(one)
        self._order.pop(one, None)

    def __iter__(self) -> Iterator[Any]:
        """Walk."""
        return iter(tuple(self._order))


class Listener(logging.Handler):
    """Hears what the server complains about."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a complaint of the living."""
        if not in_dead_realm():
            self._problems.append(f"{record.getMessage()} {record.exc_info}")
