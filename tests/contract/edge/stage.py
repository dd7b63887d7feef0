"""A daemon's edge on a real socket, with a runtime that does what a test tells it."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import uvloop

from orchqueue.core.effects import Accept, Done, EmitStarted
from orchqueue.core.events import ReplicaFacts
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import PoolId, ReplicaId, ReplyId, SessionKey, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import CANCELED, Fault, Outcome, Refusal
from orchqueue.core.records import Accepted, Ended, Receipt
from orchqueue.core.request import TaskSpec, canonical_digest
from orchqueue.core.snapshots import PoolPicture, ReplicaPicture, SessionPicture, TaskPicture
from orchqueue.core.usage import Usage, UsagePicture
from orchqueue.http.app import build_app
from orchqueue.http.auth import Access
from orchqueue.http.edge import EdgeProtocol
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.server import EdgeServer, bind
from orchqueue.ports.telemetry import LogValue
from orchqueue.runtime.streams import Streams

NOW_MS = 1_764_000_000_000
LOCAL = Tenant("local")
POOL = PoolId("default")
T = TypeVar("T")
# Reached only when something is broken: a machine that stalls is not.
PATIENCE_S = 30.0


class Runtime:
    """Stands in for the runtime: accepts whatever comes, and otherwise only does as told."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.accepted: dict[TaskKey, Accepted] = {}
        self.ended: dict[TaskKey, Ended] = {}
        self.submissions = 0
        self.forgotten: list[SessionKey] = []
        self.sessions: dict[SessionKey, SessionPicture] = {}
        self.explanations: dict[TaskKey, Explanation] = {}
        self.used = Usage()
        self.limits: dict[tuple[Tenant, str], tuple[QuotaUse, ...]] = {}
        self.usage_asked: list[tuple[Tenant, int, int]] = []
        self.refusal: Refusal | None = None
        self.control_refusal: Refusal | None = None
        self.bug: Exception | None = None
        self.pending = ""
        self.reasons: list[str] = []
        self.drained: list[tuple[str, int]] = []
        self.reader_changes: list[tuple[str, int]] = []
        self.hold: asyncio.Event | None = None
        self.waiting = 0
        streams.attached = lambda _key, readers: self.reader_changes.append(("attached", readers))
        streams.detached = lambda _key, readers: self.reader_changes.append(("detached", readers))

    def now_ms(self) -> int:
        return NOW_MS

    async def submit(
        self, task_id: TaskId, tenant: Tenant, spec: TaskSpec, client_id: str, correlation_id: str
    ) -> Accept | Refusal:
        self.submissions += 1
        if self.hold is not None:
            self.waiting += 1
            await self.hold.wait()
        if self.bug is not None:
            raise self.bug
        if self.refusal is not None:
            return self.refusal
        key = task_key(tenant, task_id)
        known = self.accepted.get(key)
        if known is not None and canonical_digest(known.spec) != canonical_digest(spec):
            return Refusal(
                Outcome.CONFLICT,
                f"task {task_id} exists with another body",
                (Fault("/task_id", "used"),),
                task_id=task_id,
            )
        if known is None:
            self.accepted[key] = Accepted(tenant, task_id, spec, POOL, True, "v1", 3, NOW_MS, client_id, correlation_id)
            self.streams.open(key, correlation_id)
        assert spec.seed is not None
        return Accept(
            ReplyId(1), key, 0, 12, 30, "measured", spec.seed, "strict", POOL, 3, "bytes_bound", known is not None
        )

    async def cancel(self, key: TaskKey) -> Refusal | None:
        if key not in self.accepted:
            return Refusal(Outcome.UNKNOWN_ID, "no such task", (Fault("/path/task_id", "unknown"),))
        if key not in self.ended:
            self.finish(key, Outcome.CANCELED_BY_CLIENT)
        return None

    async def delete_session(self, session: SessionKey) -> Refusal | None:
        self.forgotten.append(session)
        return None

    async def task(self, key: TaskKey) -> TaskPicture | None:
        accepted = self.accepted.get(key)
        return None if accepted is None else self._picture(key, accepted)

    async def tasks(
        self, tenant: Tenant, state: str | None, priority: str | None, limit: int, cursor: str | None
    ) -> tuple[list[TaskPicture], str | None] | Fault:
        if cursor is not None and not cursor.isdigit():
            return Fault("/query/cursor", "is not a cursor of ours")
        own = [self._picture(key, one) for key, one in reversed(self.accepted.items()) if one.tenant == tenant]
        own = [one for one in own if state in (None, one.state) and priority in (None, one.accepted.spec.priority)]
        begin = int(cursor or 0)
        more = str(begin + limit) if begin + limit < len(own) else None
        return own[begin : begin + limit], more

    async def explain(self, key: TaskKey) -> Explanation | None:
        return self.explanations.get(key)

    async def usage(self, tenant: Tenant, from_day: int, to_day: int) -> UsagePicture:
        self.usage_asked.append((tenant, from_day, to_day))
        return self.used.picture(tenant, from_day, to_day)

    async def quotas(self, tenant: Tenant, key_id: str) -> tuple[QuotaUse, ...]:
        return self.limits.get((tenant, key_id), ())

    async def session(self, key: SessionKey) -> SessionPicture | None:
        return self.sessions.get(key)

    def pools(self) -> tuple[PoolPicture, ...]:
        facts = ReplicaFacts("sim-1", "sha256:00", 1, 2048, True, 100, 10_000, url="http://127.0.0.1:1", pid=4711)
        ready = ReplicaPicture("default-0", "ready", 1, 1, 0, None, facts, 0.5, 1 << 20, 10_000, 100)
        broken = ReplicaPicture("default-1", "backoff", 0, 0, 2, "exit code 1", None, None, None, None, None)
        return (
            PoolPicture(
                pool_id="default", engine="llamacpp", model_ref="bundled:m", ctx=2048, quant=None, allow_cpu=True,
                strict=True, workloads=("completion",), sampler_profile_version="v1", device_class="cpu", mode="serving",
                live=True, ready=not self.reasons, last_error=None, capacity=256, depths={"interactive": 2, "batch": 1},
                running={"interactive": 1, "batch": 0}, replicas=(broken, ready), set_key="llamacpp|m",
            ),
        )  # fmt: skip

    async def drain(self, pool_id: PoolId, deadline_ms: int) -> Done | Refusal:
        self.drained.append((pool_id, deadline_ms))
        return self.control_refusal or Done(ReplyId(1), {"deadline_ms": min(deadline_ms, 5_000)})

    async def reload(self, pool_id: PoolId, model_ref: str, canary_percent: int) -> Done | Refusal:
        return self.control_refusal or Done(ReplyId(1), {"canary_percent": canary_percent})

    async def rollback(self, pool_id: PoolId) -> Done | Refusal:
        return self.control_refusal or Done(ReplyId(1))

    async def reload_config(self) -> Done | Refusal:
        return self.control_refusal or Done(ReplyId(1), {"applied": "/tenants\n/slo"})

    def recovering(self) -> str:
        return self.pending

    async def rollback_config(self) -> Done | Refusal:
        return self.control_refusal or Done(ReplyId(1), {"applied": "/tenants", "needs_restart": ""})

    def readiness(self) -> list[str]:
        return self.reasons

    # what a test tells it to do

    def start(self, key: TaskKey) -> None:
        self.streams.started(
            EmitStarted(key, 0, 12, 7, POOL, ReplicaId("default-0"), "sim-1", "sha256:00", "strict", 11)
        )

    def finish(self, key: TaskKey, outcome: Outcome = Outcome.COMPLETED, message: str = "") -> None:
        accepted = self.accepted[key]
        receipt = Receipt(accepted.spec.seed or 0, "0" * 64, "v1", "llamacpp", "sim-1", "sha256:00", 1)
        ended = Ended(
            accepted.tenant, accepted.task_id, outcome, NOW_MS + 9, NOW_MS + 600_000, 3, 5, 40, NOW_MS + 1,
            None if outcome in CANCELED else "stop", message, POOL, ReplicaId("default-0"), "llamacpp", None, receipt,
        )  # fmt: skip
        self.ended[key] = ended
        self.streams.finish(key, ended)

    def _picture(self, key: TaskKey, accepted: Accepted) -> TaskPicture:
        ended = self.ended.get(key)
        if ended is None:
            return TaskPicture(accepted, "queued", 0, 0, 12, 30, "measured")
        state = (
            "succeeded" if ended.outcome is Outcome.COMPLETED else "canceled" if ended.outcome in CANCELED else "failed"
        )
        return TaskPicture(accepted, state, 0, tokens_out=5, ended=ended)


class Stage:
    """A running edge. Its loop has a thread of its own; `on_loop` does something there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: EdgeServer, runtime: Runtime, port: int) -> None:
        self.loop = loop
        self.server = server
        self.runtime = runtime
        self.port = port
        self.log: list[tuple[str, Mapping[str, LogValue]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connections(self) -> list[EdgeProtocol]:
        """List the open connections."""
        return self.server.open_connections()

    def on_loop(self, action: Callable[[], T]) -> T:
        """Run something on the edge's own thread and give its result."""

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)

    def stop(self, grace_s: float = 1.0) -> None:
        """Stop as the daemon does."""
        asyncio.run_coroutine_threadsafe(self.server.stop(grace_s), self.loop).result(PATIENCE_S)


@contextmanager
def running(
    limits: EdgeLimits | None = None,
    access: Access | None = None,
    readers_per_task: int = 16,
    tls: ssl.SSLContext | None = None,
    make_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> Iterator[Stage]:
    """Run an edge on a free port of the loopback interface."""
    limits = limits or EdgeLimits()
    loop = make_loop()
    ready = threading.Event()
    stages: list[Stage] = []

    async def main() -> None:
        runtime = Runtime(Streams(readers_per_task=readers_per_task))
        lines: list[tuple[str, Mapping[str, LogValue]]] = []
        app = build_app(
            runtime, access or Access(), limits, lambda _pools: b"# TYPE queue_depth gauge\n",
            lambda _level, event, fields: lines.append((event, fields)),
        )  # fmt: skip
        server = EdgeServer(app, runtime.streams, limits, tls)
        sockets = bind("127.0.0.1", 0)
        await server.start(sockets)
        stage = Stage(loop, server, runtime, sockets[0].getsockname()[1])
        stage.log = lines
        stages.append(stage)
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.run_forever()

    thread = threading.Thread(target=run, name="edge")
    thread.start()
    try:
        assert ready.wait(PATIENCE_S), "the edge did not start"
        yield stages[0]
    finally:
        if stages:
            stages[0].stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
