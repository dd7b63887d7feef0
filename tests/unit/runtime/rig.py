"""A whole runtime over hands that the test moves: the journal commits, engines speak and time passes only when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from orchqueue.core.events import AnyEvent, AttemptFailure, ReplicaFacts, ReplicaReady
from orchqueue.core.ids import PoolId, ReplicaId, SessionKey, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.outcome import Fault
from orchqueue.core.records import Accepted, AnyRecord, Booking, Ended
from orchqueue.core.request import TaskSpec, with_seed
from orchqueue.core.settings import PoolSettings, ReplicaSettings, Settings
from orchqueue.ports.engine import AttemptSink, Completion, Replica
from orchqueue.ports.journal import JournalWatcher, Unfinished
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue.runtime.gate import NewSettings
from orchqueue.runtime.lifecycle import Resources, Runtime
from orchqueue.runtime.stream_log import Reader

TENANT = Tenant("acme")
FACTS = ReplicaFacts("v1", "d1", 1, 2048, True, 3_000, 8_000)
# The pulse follows the loop's own time, which no test moves: it would put an event between those that a test posts.
NEVER_MS = 86_400_000


class ManualClock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.at_ms = 1_000_000

    def now_ms(self) -> int:
        return self.at_ms


class ManualJournal:
    """A journal that commits when the test says so."""

    def __init__(self, held: tuple[Unfinished, ...] = ()) -> None:
        self.records: list[AnyRecord] = []
        self.closed = False
        self.used = 0
        self._held = held
        self._watcher: JournalWatcher | None = None

    def recover(self) -> ManualJournal:
        return self

    def unfinished(self) -> Iterator[Unfinished]:
        return iter(self._held)

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        return iter(())

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        return iter(())

    def usage_since_ms(self) -> int | None:
        return None

    def open(self, watcher: JournalWatcher) -> None:
        self._watcher = watcher

    def append(self, records: Sequence[AnyRecord]) -> int:
        self.records.extend(records)
        return len(self.records)

    def used_bytes(self) -> int:
        return self.used

    def close(self) -> None:
        self.closed = True

    @property
    def watcher(self) -> JournalWatcher:
        assert self._watcher is not None
        return self._watcher

    def commit(self, upto: int | None = None) -> None:
        self.watcher.committed(len(self.records) if upto is None else upto)


class ManualAttempt:
    """One attempt as an engine sees it."""

    def __init__(self, spec: TaskSpec, sink: AttemptSink) -> None:
        self.spec = spec
        self.sink = sink
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class ManualEngine:
    """An engine that says what the test makes it say."""

    def __init__(self) -> None:
        self.attempts: list[ManualAttempt] = []
        self.refuses: tuple[AttemptFailure, str] | None = None

    def start(
        self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink, said: str = ""
    ) -> ManualAttempt:
        attempt = ManualAttempt(spec, sink)
        self.attempts.append(attempt)
        if self.refuses:
            sink.failed(*self.refuses)
            sink.closed()
        return attempt


class ManualReplicas:
    """Replicas that come up when the test says so."""

    def __init__(self, post: Callable[[AnyEvent], None]) -> None:
        self.post = post
        self.engines: dict[str, ManualEngine] = {}
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    def engine_of(self, replica_id: ReplicaId) -> Replica | None:
        return cast("Replica | None", self.engines.get(replica_id))

    def start(self, replica_id: ReplicaId, model_ref: str) -> None:
        self.asked.append(("start", replica_id))

    def stop(self, replica_id: ReplicaId) -> None:
        self.asked.append(("stop", replica_id))

    def probe(self, replica_id: ReplicaId) -> None:
        self.asked.append(("probe", replica_id))

    def verify_model(self, pool_id: PoolId, model_ref: str) -> None:
        self.asked.append(("verify", model_ref))

    def count_prompt(self, key: TaskKey, replica_id: ReplicaId, spec: TaskSpec, timeout_ms: int) -> None:
        self.asked.append(("count", key))

    def evict_session(self, replica_id: ReplicaId, session: SessionKey) -> None:
        self.asked.append(("evict", session[1]))

    def come_up(self, replica_id: str, facts: ReplicaFacts = FACTS) -> ManualEngine:
        engine = self.engines[replica_id] = ManualEngine()
        self.post(ReplicaReady(ReplicaId(replica_id), facts))
        return engine

    async def close(self) -> None:
        self.closed = True


class ListeningTelemetry:
    """Remembers what was counted and logged."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.lines: list[str] = []

    def count(self, name: str, labels: tuple[str, ...], amount: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def log(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append(event)


class Listener:
    """A reader's far end: what it got, as text."""

    def __init__(self) -> None:
        self.got = b""
        self.over = False

    def write(self, frames: bytes, framed: bytes) -> None:
        self.got += frames

    def ended(self) -> None:
        self.over = True

    def dropped(self) -> None:
        self.over = True


class Rig:
    """A runtime with one pool of two replicas, `p-0` and `p-1`."""

    def __init__(
        self,
        held: tuple[Unfinished, ...] = (),
        settings: Settings | None = None,
        decisions: DecisionLog | None = None,
    ) -> None:
        self.decisions = DecisionLog() if decisions is None else decisions
        self.clock = ManualClock()
        self.journal = ManualJournal(held)
        self.telemetry = ListeningTelemetry()
        self.bugs: list[Exception] = []
        self.replicas: ManualReplicas
        self.settings = settings or Settings(
            (
                PoolSettings(
                    PoolId("p"),
                    "llamacpp",
                    "m",
                    (ReplicaSettings(ReplicaId("p-0")), ReplicaSettings(ReplicaId("p-1"))),
                    2048,
                ),
            ),
            metrics_interval_ms=NEVER_MS,
        )
        self.read: NewSettings | list[Fault] = NewSettings(self.settings)
        self.before: NewSettings | None = None
        self.adopted = 0
        self.runtime = Runtime(
            self.settings,
            Resources(
                clock=self.clock,
                journal=self.journal,
                telemetry=self.telemetry,
                make_supervisor=self._make_replicas,
                settings_source=self,
                on_bug=self.bugs.append,
                stall_ms=5_000,
                journal_max_bytes=1_000,
                decisions=self.decisions,
            ),
        )
        self.gate = self.runtime.gate

    def renew(self) -> NewSettings | list[Fault]:
        return self.read

    def revert(self) -> NewSettings | None:
        return self.before

    def adopt(self) -> None:
        self.adopted += 1

    def _make_replicas(self, post: Callable[[AnyEvent], None]) -> ManualReplicas:
        self.replicas = ManualReplicas(post)
        return self.replicas

    def listen(self, task_id: str) -> Listener:
        listener = Listener()
        reader = self.runtime.streams.attach(task_key(TENANT, TaskId(task_id)), None, listener)
        assert isinstance(reader, Reader), reader
        reader.resume()
        return listener


def spec(task_id: str, **fields: object) -> TaskSpec:
    """Make a small request."""
    return with_seed(TaskSpec(**{"prompt": "hi", **fields}), TaskId(task_id))  # type: ignore[arg-type]


def completion(tokens_out: int = 2) -> Completion:
    """Say that all went well."""
    return Completion("stop", 3, tokens_out, 9, 16)
