"""Brings replicas up and down for the core, watches them, and tells it what became of them.

When to start again, how long to wait and when to give up is the core's business.

Req: ORCH-3003
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress

import msgspec

from orchqueue.core.events import (
    AnyEvent,
    CrashCause,
    ModelVerified,
    PromptCounted,
    ReplicaFacts,
    ReplicaHealthy,
    ReplicaLost,
    ReplicaReady,
    ReplicaScraped,
    ReplicaStopped,
)
from orchqueue.core.ids import PoolId, ReplicaId, SessionKey, TaskKey
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import Replica
from orchqueue.ports.errors import EngineError, PortError, ProcessError
from orchqueue.ports.process import ReplicaHost, RunningReplica

SCRAPE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 5.0
EXIT_TOLD_WITHIN_S = 1.0

Post = Callable[[AnyEvent], None]


class _Life:
    """One start of a replica, until it is down again. `over`: its end was told, or asked for."""

    def __init__(self) -> None:
        self.running: RunningReplica | None = None
        self.ready = False
        self.ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self.ended.is_set()


class Supervision:
    """Carries out the effects that concern replicas; every one of them is answered by exactly one event.

    Lives of one replica never overlap: a new one begins when the process of the last is gone.

    Req: ORCH-3002, ORCH-3038
    """

    def __init__(
        self,
        hosts: Mapping[PoolId, ReplicaHost],
        pool_of: Mapping[ReplicaId, PoolId],
        post: Post,
        *,
        scrape_interval_s: float = SCRAPE_INTERVAL_S,
    ) -> None:
        self._hosts = hosts
        self._pool_of = pool_of
        self._post = post
        self._scrape_interval_s = scrape_interval_s
        self._lives: dict[ReplicaId, _Life] = {}
        self._endings: dict[ReplicaId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def engine_of(self, replica_id: ReplicaId) -> Replica | None:
        """Give the engine of a replica that is up."""
        life = self._lives.get(replica_id)
        return life.running.replica if life is not None and life.running is not None and life.ready else None

    def start(self, replica_id: ReplicaId, model_ref: str) -> None:
        """Launch, self-test; `ReplicaReady` or `ReplicaLost` follows."""
        if self._closing:
            self._post(ReplicaLost(replica_id, "never_ready", "the daemon is shutting down"))
            return
        self._end(replica_id)
        life = _Life()
        self._lives[replica_id] = life
        life.task = self._spawn(self._live(replica_id, model_ref, life))

    def stop(self, replica_id: ReplicaId) -> None:
        """Take down; `ReplicaStopped` follows."""
        self._end(replica_id)

        async def tell() -> None:
            await self._ended(replica_id)
            self._post(ReplicaStopped(replica_id))

        self._spawn(tell())

    def probe(self, replica_id: ReplicaId) -> None:
        """Ask a suspect once; `ReplicaHealthy` or `ReplicaLost` follows, nothing where it is down already."""
        self._spawn(self._probe(replica_id))

    def verify_model(self, pool_id: PoolId, model_ref: str) -> None:
        """Compare a checksum; `ModelVerified` follows."""
        self._spawn(self._verify(pool_id, model_ref))

    def count_prompt(self, key: TaskKey, replica_id: ReplicaId, spec: TaskSpec, timeout_ms: int) -> None:
        """Ask the tokenizer; `PromptCounted` follows in time."""
        self._spawn(self._count(key, replica_id, spec, timeout_ms))

    def evict_session(self, replica_id: ReplicaId, session: SessionKey) -> None:
        """Have the engine forget a session's KV, where it is up and can; nothing follows.

        Req: ORCH-4249
        """
        engine = self.engine_of(replica_id)
        if engine is not None:
            self._spawn(self._evict(engine, session))

    async def close(self) -> None:
        """Take every replica down at once and end all watching.

        Req: ORCH-4210
        """
        self._closing = True
        for replica_id in tuple(self._lives):
            self._end(replica_id)
        await asyncio.gather(*self._endings.values())
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _live(self, replica_id: ReplicaId, model_ref: str, life: _Life) -> None:
        def on_exit(cause: CrashCause, detail: str) -> None:
            self._lose(replica_id, life, cause, detail)

        try:
            await self._ended(replica_id)
            life.running = await self._hosts[self._pool_of[replica_id]].launch(replica_id, model_ref, on_exit)
            facts = await self._tested(life.running)
        except ProcessError as error:
            self._lose(replica_id, life, error.cause, str(error))
            return
        except PortError as error:
            await self._lose_unless_it_exits(replica_id, life, "selftest", str(error))
            return
        except Exception as error:  # noqa: BLE001 - a bug in an adapter must not leave the replica starting for ever
            self._lose(replica_id, life, "never_ready", _unexpected(error))
            return
        if life.over:
            return
        life.ready = True
        self._post(ReplicaReady(replica_id, facts))
        await self._scrape(replica_id, life.running.replica)

    async def _tested(self, running: RunningReplica) -> ReplicaFacts:
        facts = await running.replica.self_test()
        return msgspec.structs.replace(facts, url=running.url, pid=running.pid)

    async def _scrape(self, replica_id: ReplicaId, replica: Replica) -> None:
        while True:
            await asyncio.sleep(self._scrape_interval_s)
            try:
                said = await replica.scrape()
            except EngineError:
                continue
            self._post(ReplicaScraped(replica_id, said.kv_usage_ratio, said.devices, said.cached_tokens))

    def _lose(self, replica_id: ReplicaId, life: _Life, cause: CrashCause, detail: str) -> None:
        if life.over:
            return
        life.ended.set()
        life.ready = False
        self._post(ReplicaLost(replica_id, cause, detail))
        if self._lives.get(replica_id) is life:
            self._end(replica_id)

    async def _lose_unless_it_exits(self, replica_id: ReplicaId, life: _Life, cause: CrashCause, detail: str) -> None:
        """Let a process that died tell its own cause, which says more than the connection that broke with it."""
        if life.running is not None and life.running.pid is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(life.ended.wait(), EXIT_TOLD_WITHIN_S)
        self._lose(replica_id, life, cause, detail)

    def _end(self, replica_id: ReplicaId) -> None:
        """Begin to take down what there is; `_ended` waits for it."""
        life = self._lives.pop(replica_id, None)
        if life is None:
            return
        life.ended.set()
        life.ready = False
        self._endings[replica_id] = self._spawn(self._take_down(life, self._endings.get(replica_id)))

    async def _take_down(self, life: _Life, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await earlier
        task = life.task
        if task is not None and task is not asyncio.current_task() and not task.done():
            task.cancel()
            await asyncio.wait({task})
        if life.running is not None:
            try:
                await life.running.stop()
            except Exception:  # noqa: BLE001 - a failed stop must not keep the replica from its next start
                # It is down as far as we can take it; the next launch tells what is wrong.
                return

    async def _ended(self, replica_id: ReplicaId) -> None:
        ending = self._endings.get(replica_id)
        if ending is not None:
            await asyncio.shield(ending)
            if self._endings.get(replica_id) is ending:
                del self._endings[replica_id]

    async def _probe(self, replica_id: ReplicaId) -> None:
        life = self._lives.get(replica_id)
        if life is None or life.running is None:
            return
        problem = "it is loading again"
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if await life.running.replica.health():
                    problem = ""
        except (EngineError, TimeoutError) as error:
            problem = str(error) or f"no answer within {PROBE_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001 - nobody else would take the suspicion away
            problem = _unexpected(error)
        if not problem and not life.over:
            self._post(ReplicaHealthy(replica_id))
        elif problem:
            await self._lose_unless_it_exits(replica_id, life, "health", problem)

    async def _verify(self, pool_id: PoolId, model_ref: str) -> None:
        problem = ""
        try:
            await self._hosts[pool_id].verify_model(model_ref)
        except PortError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - without an answer the pool would be verifying for ever
            problem = _unexpected(error)
        self._post(ModelVerified(pool_id, model_ref, problem))

    async def _count(self, key: TaskKey, replica_id: ReplicaId, spec: TaskSpec, timeout_ms: int) -> None:
        tokens: int | None = None
        engine = self.engine_of(replica_id)
        if engine is not None:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    tokens = await engine.count_prompt(spec)
            except Exception:  # noqa: BLE001 - whatever it was, the client waits and an estimate will do
                tokens = None
        self._post(PromptCounted(key, tokens))

    async def _evict(self, engine: Replica, session: SessionKey) -> None:
        # The KV goes with the next prompt in any case.
        with suppress(EngineError):
            await engine.evict_session("/".join(session))


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}; this is a bug, please report it"
