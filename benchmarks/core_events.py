"""How fast the core decides, and what a waiting task costs: no I/O, one process, one core."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random
from time import perf_counter_ns
from uuid import UUID

import msgspec

from benchmarks.figures import Report, command, median, quantile
from orchqueue.core.effects import AnyEffect, LogDecision, StartAttempt
from orchqueue.core.events import (
    AttemptClosed,
    AttemptCompleted,
    CancelRequested,
    ChunksArrived,
    ReaderAttached,
    ReplicaFacts,
    ReplicaReady,
    TaskSubmitted,
    Ticked,
)
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.request import TaskSpec, with_seed
from orchqueue.core.settings import ClassSettings, PoolSettings, ReplicaSettings, Settings
from orchqueue.runtime.decision_log import DecisionLog

TENANT = Tenant("acme")
TOKENS = 32
DEPTH = 100_000
STORY = "Core events a second, µs per event kind, and cost and memory at 100 000 waiting tasks."


class Bench:
    """A core with one ready replica, fed by hand. A millisecond passes with every task."""

    def __init__(self, slots: int) -> None:
        classes = (ClassSettings("interactive", 8, 2 * DEPTH), ClassSettings("batch", 1, 2 * DEPTH))
        replica = ReplicaSettings(ReplicaId("r0"))
        pool = PoolSettings(
            PoolId("p"),
            "llamacpp",
            "file:m",
            (replica,),
            4096,
            slots,
            strict=False,
            capacity=2 * DEPTH,
            classes=classes,
        )
        self.core = Orchestrator(Settings((pool,)))
        self.now_ms = 1_700_000_000_000
        self.started: list[AttemptId] = []
        self.core.begin(self.now_ms)
        facts = ReplicaFacts("v1", "d" * 64, slots, 4096, False, 3_000, 8_000)
        self.core.handle(self.now_ms, ReplicaReady(ReplicaId("r0"), facts))
        self._ids = Random(1)
        self._prompt = "Why is the sky blue? " * 4
        self.log: DecisionLog | None = None

    def new_task(self, number: int) -> tuple[TaskKey, TaskSubmitted]:
        """Build a submission as the HTTP layer does."""
        task_id = TaskId(str(UUID(int=self._ids.getrandbits(128), version=4)))
        spec = with_seed(TaskSpec(prompt=f"{self._prompt}{number}", max_tokens=64), task_id)
        correlation = str(UUID(int=self._ids.getrandbits(128), version=4))
        event = TaskSubmitted(ReplyId(number), task_id, TENANT, spec, "key-1", correlation)
        return task_key(TENANT, task_id), event

    def submit(self, number: int) -> tuple[TaskKey, int]:
        """Submit a task.

        Units: nanoseconds that the core took.
        """
        key, event = self.new_task(number)
        self.now_ms += 1
        begun = perf_counter_ns()
        effects = self.core.handle(self.now_ms, event)
        took = perf_counter_ns() - begun
        self.note_starts(effects)
        return key, took

    def note_starts(self, effects: list[AnyEffect]) -> None:
        """Remember which attempts the core started, and log decisions where that is asked for."""
        self.started.extend(e.attempt_id for e in effects if type(e) is StartAttempt)

        if self.log is not None:
            for effect in effects:
                if type(effect) is LogDecision:
                    self.log.append(effect.decision)

    def finish(self, attempt_id: AttemptId) -> tuple[int, int]:
        """Complete and close an attempt.

        Units: nanoseconds for each; a close includes the dispatch of the next task.
        """
        begun = perf_counter_ns()
        self.core.handle(self.now_ms, AttemptCompleted(attempt_id, "stop", 20, TOKENS, 60, 250))
        ended = perf_counter_ns()
        effects = self.core.handle(self.now_ms, AttemptClosed(attempt_id))
        closed = perf_counter_ns()
        self.note_starts(effects)
        return ended - begun, closed - ended


def whole_tasks(tasks: int) -> float:
    """Run tasks from submission to close, 64 at a time, a token an event.

    Units: events a second.
    """
    bench = Bench(64)
    events = 0
    begun = perf_counter_ns()
    for number in range(tasks):
        bench.submit(number)
        events += 1
        if len(bench.started) == 64:
            for token in range(1, TOKENS + 1):
                for attempt_id in bench.started:
                    bench.core.handle(bench.now_ms, ChunksArrived(attempt_id, (" word",), token))
            running, bench.started = bench.started, []
            for attempt_id in running:
                bench.finish(attempt_id)
            events += 64 * (TOKENS + 2)
    return events * 1e9 / (perf_counter_ns() - begun)


def token_us(tokens: int) -> float:
    """Time one token event, the making of the event included.

    Units: microseconds.
    """
    bench = Bench(64)
    for number in range(64):
        bench.submit(number)
    handle, now_ms, running = bench.core.handle, bench.now_ms, bench.started
    begun = perf_counter_ns()
    for token in range(tokens // 64):
        for attempt_id in running:
            handle(now_ms, ChunksArrived(attempt_id, (" word",), token))
    return (perf_counter_ns() - begun) / (tokens // 64 * 64) / 1000


def many_slots(slots: int, tasks: int) -> float:
    """Time submissions while every one of many slots is taken.

    Units: median microseconds.
    """
    bench = Bench(slots)
    for number in range(slots):
        bench.submit(number)
    return median([bench.submit(slots + number)[1] for number in range(tasks)]) / 1000


def interval_us(bench: Bench) -> float:
    """Time what the core does for every metrics interval."""
    took: list[int] = []
    for _ in range(5):
        begun = perf_counter_ns()
        bench.core.handle(bench.now_ms, Ticked())
        took.append(perf_counter_ns() - begun)
    return median(took) / 1000


def deep(report: Report, depth: int, samples: int) -> None:
    """Time the core with many waiting tasks."""
    bench = Bench(8)
    took: list[int] = []
    keys: list[TaskKey] = []
    for number in range(depth + 8):
        key, ns = bench.submit(number)
        keys.append(key)
        took.append(ns)
    report.add("submit, queue empty", median(took[8 : 8 + samples]) / 1000, "µs")
    report.add(f"submit, {depth} waiting", median(took[-samples:]) / 1000, "µs")
    report.add(f"submit, {depth} waiting, p99.9", quantile(took[-10 * samples :], 0.999) / 1000, "µs")
    report.add("longest submit on the way", max(took) / 1e6, "ms", "a full garbage collection")
    ended: list[int] = []
    closed: list[int] = []
    for _ in range(samples):
        complete_ns, close_ns = bench.finish(bench.started.pop(0))
        ended.append(complete_ns)
        closed.append(close_ns)
    report.add(f"complete, {depth} waiting", median(ended) / 1000, "µs")
    report.add(f"close and dispatch, {depth} waiting", median(closed) / 1000, "µs")
    victims = Random(2).sample(keys[samples + 8 :], samples)
    canceled: list[int] = []
    for number, key in enumerate(victims):
        begun = perf_counter_ns()
        bench.core.handle(bench.now_ms, CancelRequested(ReplyId(number), key))
        canceled.append(perf_counter_ns() - begun)
    report.add(f"cancel anywhere in the queue, {depth} waiting", median(canceled) / 1000, "µs")
    report.add(f"metrics interval, nobody reads, {depth} waiting", interval_us(bench), "µs")
    for key in keys[-2 * samples : -samples]:
        bench.core.handle(bench.now_ms, ReaderAttached(key, 1))
    followed = len(bench.core.state.followed)
    report.add(f"metrics interval, {followed} read, {depth} waiting", interval_us(bench), "µs")


def rss_bytes() -> int:
    """Read the resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def bytes_per_waiting_task(depth: int, traced: bool, logged: bool = False) -> float:
    """Weigh a waiting task, by what Python allocated or by what the process grew; `logged` with its decisions."""
    bench = Bench(8)
    bench.log = DecisionLog() if logged else None
    for number in range(1_000):
        bench.submit(number)
    gc.collect()
    if traced:
        tracemalloc.start()
    before = rss_bytes()
    for number in range(1_000, 1_000 + depth):
        bench.submit(number)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] if traced else rss_bytes() - before
    if traced:
        tracemalloc.stop()
    return grown / depth


def log_us(decisions: int) -> float:
    """Time what it takes to keep one decision.

    Units: microseconds.
    """
    bench = Bench(8)
    made = []
    for number in range(decisions):
        effects = bench.core.handle(bench.now_ms, bench.new_task(number)[1])
        made += [effect.decision for effect in effects if type(effect) is LogDecision]
    log = DecisionLog()
    begun = perf_counter_ns()
    for decision in made:
        log.append(decision)
    return (perf_counter_ns() - begun) / len(made) / 1000


def in_own_process(depth: int) -> float:
    """Weigh by resident memory in a process that has done nothing else."""
    code = f"from benchmarks.core_events import bytes_per_waiting_task as b; print(b({depth}, traced=False))"
    return float(
        json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    )


def measure(quick: bool) -> Report:
    """Take every figure of the core."""
    report = Report("core_events", quick)
    rounds, tasks, depth, samples = (1, 128, 500, 50) if quick else (5, 6_400, DEPTH, 1_000)
    rates = [whole_tasks(tasks) for _ in range(rounds)]
    report.add("events, submit to close, 32 tokens a task", median(rates), "1/s", f"median of {rounds} rounds")
    report.add("tasks, submit to close, 32 tokens a task", median(rates) / (TOKENS + 3), "1/s")
    report.add("token", median([token_us(tasks * 32) for _ in range(rounds)]), "µs")
    deep(report, depth, samples)
    report.add("submit, 256 slots taken", many_slots(256, samples), "µs")
    alone = bytes_per_waiting_task(min(depth, 20_000), traced=True)
    with_log = bytes_per_waiting_task(min(depth, 20_000), traced=True, logged=True)
    report.add("memory of a waiting task, allocated", alone, "bytes")
    report.add("its decisions in the log, allocated", with_log - alone, "bytes")
    report.add("keep one decision in the log", log_us(tasks), "µs")
    report.add("memory of a waiting task, resident", in_own_process(depth), "bytes")
    report.detail["rounds_events_per_s"] = rates
    report.detail["depth"] = depth
    report.detail["msgspec"] = msgspec.__version__
    return report


if __name__ == "__main__":
    command("core_events", STORY, measure)
