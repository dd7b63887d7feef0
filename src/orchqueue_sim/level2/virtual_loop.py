"""An event loop whose clock jumps to whatever comes next, and the realms that live on it.

A realm is what dies together: a daemon, an engine's process. Everything that was begun inside one, however indirectly,
belongs to it, because callbacks, tasks and connections carry the context in which they were made.

This is the one place that looks into asyncio's own event loop.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from orchqueue_sim.level2.wires import Factory, Listener, Network, Wire

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
TIE_S = 1e-6
UNWINDINGS_AT_MOST = 10


class Realm:
    """Something that can be killed at once, with all its tasks, timers and connections."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.dead = False
        self._loop = loop
        self.context = copy_context()
        self.context.run(_REALM.set, self)
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a part of this realm."""
        return self._loop.create_task(work, context=self.context)

    def kill(self) -> None:
        """End everything here and now, as `kill -9` ends a process: nobody inside runs another line that matters."""
        if self.dead:
            return
        self.dead = True
        self._loop.network.cut(self)
        self._loop.drop_callbacks(self)
        for task in tuple(self.tasks):
            bury(task, self.context)
        self.tasks.clear()

    def forget(self, task: asyncio.Task[Any]) -> None:
        """Count a task no more: it has ended."""
        self.tasks.pop(task, None)

    def left(self) -> list[str]:
        """List what still lives here: tasks, timers, connections and open doors."""
        tasks = [f"task {task.get_coro()}" for task in self.tasks]
        return [*tasks, *self._loop.callbacks_of(self), *self._loop.network.held_by(self)]


_REALM: ContextVar[Realm | None] = ContextVar("realm", default=None)


def bury(task: asyncio.Task[Any], context: Context) -> None:
    """Unwind a task that will never run again. What its `finally` clauses do meets only what is closed or dead.

    A clause that waits makes the coroutine go on; it is told again.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio's own gather does
    coroutine = task.get_coro()
    assert coroutine is not None
    for _ in range(UNWINDINGS_AT_MOST):
        try:
            context.copy().run(coroutine.close)
        except RuntimeError:
            continue
        return


def in_dead_realm() -> bool:
    """Tell whether whoever runs now is dead already and only unwound."""
    realm = _REALM.get()
    return realm is not None and realm.dead


def realm_of(context: Context) -> Realm | None:
    """Give the realm that a context belongs to."""
    return context.get(_REALM)


class NothingLeft(Exception):
    """Someone waits for what can never happen: no callback and no timer is left."""


class _Selector:
    """Waits for no file; it lets time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        """Jump to the next timer."""
        if timeout is None:
            raise NothingLeft
        self._loop.now_s += timeout
        return []


class VirtualLoop(BaseEventLoop):
    """Runs in no time what would take hours. Timers of one instant fire in an order that the seed decides.

    Threads do not exist: what would run in one runs on the loop, a moment later.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    network: Network

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.now_s = 0.0
        self.problems: list[str] = []
        self._rng = rng
        self._selector = _Selector(self)
        self._clock_resolution = TIE_S
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # it is generic in what a coroutine gives

    def time(self) -> float:
        """Read the virtual clock."""
        return self.now_s

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in this turn's successor, unless its realm is dead."""
        handle = super().call_soon(callback, *args, context=context)
        realm = _REALM.get() if context is None else context.get(_REALM)
        if realm is not None and realm.dead:
            handle.cancel()
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback at an instant, before or after others of that instant as the seed has it."""
        tie_s = self._rng.random() * TIE_S
        handle = super().call_at(when + tie_s, callback, *args, context=context)
        realm = _REALM.get() if context is None else context.get(_REALM)
        if realm is not None and realm.dead:
            handle.cancel()
        return handle

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: Context | None = None
    ) -> asyncio.Task[T]:
        realm = _REALM.get() if context is None else context.get(_REALM)
        if realm is not None and realm.dead:
            work.close()
        task = asyncio.Task(work, loop=self, context=context)
        if realm is not None and not realm.dead:
            realm.tasks[task] = None
            task.add_done_callback(realm.forget)
        elif realm is not None:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - see bury
        return task

    def run_in_executor(self, _executor: object, act: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """Run on the loop what would run in a thread."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                future.set_result(act(*args))
            except Exception as error:  # noqa: BLE001 - whoever awaits gets it
                future.set_exception(error)

        self.call_later(self._rng.choice((0.0, 0.001, 0.02)), run)
        return future

    async def create_connection(  # type: ignore[override]
        self, factory: Factory, host: str, port: int, **_: object
    ) -> tuple[Wire, asyncio.Protocol]:
        """Connect inside the simulated network."""
        return await self.network.connect(factory, host, port)

    async def create_server(  # type: ignore[override]
        self, factory: Factory, host: str = "", port: int = 0, *, sock: object = None, **_: object
    ) -> Listener:
        """Listen inside the simulated network."""
        return self.network.listen(factory, (host, port) if sock is None else self.network.address_of(sock))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what asyncio complains about: an error that nobody handles is a bug."""
        if in_dead_realm():
            return
        error = context.get("exception")
        if (
            isinstance(error, ConnectionError)
            and "future" in context
            and not isinstance(context["future"], asyncio.Task)
        ):
            return  # Whoever waited for the connection was killed before it heard that it is lost.
        self.problems.append(f"{context.get('message')}: {error!r}")

    def drop_callbacks(self, realm: Realm) -> None:
        """Forget whatever a realm wanted to be called for."""
        for handle in (*self._ready, *self._scheduled):
            if not handle.cancelled() and _context_of(handle).get(_REALM) is realm:
                handle.cancel()

    def callbacks_of(self, realm: Realm) -> list[str]:
        """List a realm's timers and callbacks."""
        handles = (*self._ready, *self._scheduled)
        return [repr(h) for h in handles if not h.cancelled() and _context_of(h).get(_REALM) is realm]


def _context_of(handle: asyncio.Handle) -> Context:
    return handle._context  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001


def _nothing(*_: object) -> None:
    """Stand for what only a loop with files and threads has to do."""


# Called by `BaseEventLoop` alone, and abstract there.
for _name in ("_process_events", "_write_to_self"):
    setattr(VirtualLoop, _name, _nothing)
