"""Whether deciding stays as cheap with many waiting tasks and many tenants, and what a waiting task weighs."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from time import perf_counter_ns

from benchmarks.core_events import TOKENS, Bench
from benchmarks.figures import Report, command, median
from orchqueue.core.effects import AnyEffect
from orchqueue.core.events import (
    AnyEvent,
    AttemptClosed,
    AttemptCompleted,
    ChunksArrived,
    JournalHealed,
    JournalStalled,
    TaskSubmitted,
)
from orchqueue.core.ids import ReplyId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.request import Priority, TaskSpec, with_seed

STORY = "µs of submit, dispatch, chunk, complete and close at 0 to 100 000 waiting tasks of 1 to 1 000 tenants; memory."
SLOTS = 8
DEPTHS = (0, 1_000, 100_000)
TENANTS = (1, 100, 1_000)
STEPS = ("submit", "chunk", "complete", "close and dispatch", "close")


class Crowd(Bench):
    """A core with all slots taken, whose waiting tasks belong to many tenants in turn, half of them batch."""

    def __init__(self, tenants: int, depth: int) -> None:
        super().__init__(SLOTS)
        self.tenants = tenants
        self.took: dict[str, list[int]] = {step: [] for step in STEPS}
        self.numbers = 0
        for _ in range(SLOTS + depth):
            self.enter()

    def new_task(self, number: int) -> tuple[TaskKey, TaskSubmitted]:
        """Build a submission of the tenant whose turn it is."""
        tenant = Tenant(f"tenant-{number % self.tenants}")
        task_id = TaskId(f"{self._ids.getrandbits(128):032x}")
        priority: Priority = "batch" if number // self.tenants % 2 else "interactive"
        spec = TaskSpec(prompt=f"{self._prompt}{number}", max_tokens=64, priority=priority)
        event = TaskSubmitted(ReplyId(number), task_id, tenant, with_seed(spec, task_id), "key-1", f"c-{number}")
        return task_key(tenant, task_id), event

    def enter(self) -> int:
        """Submit the next task.

        Units: nanoseconds that the core took.
        """
        self.numbers += 1
        return self.submit(self.numbers)[1]

    def tell(self, event: AnyEvent) -> int:
        """Hand an event to the core.

        Units: nanoseconds that it took.
        """
        begun = perf_counter_ns()
        effects: list[AnyEffect] = self.core.handle(self.now_ms, event)
        took = perf_counter_ns() - begun
        self.note_starts(effects)
        return took

    def go_round(self) -> None:
        """Take every step once; the queue is as long afterwards as before.

        While the journal is said to stall nothing is started, which shows what a close alone costs.
        """
        took = self.took
        took["submit"].append(self.enter())
        attempt_id = self.started.pop(0)
        took["chunk"].append(self.tell(ChunksArrived(attempt_id, (" word",), 1)))
        took["complete"].append(self.tell(AttemptCompleted(attempt_id, "stop", 20, TOKENS, 60, 250)))
        took["close and dispatch"].append(self.tell(AttemptClosed(attempt_id)))
        self.enter()
        attempt_id = self.started.pop(0)
        self.tell(AttemptCompleted(attempt_id, "stop", 20, TOKENS, 60, 250))
        self.tell(JournalStalled("benchmark"))
        took["close"].append(self.tell(AttemptClosed(attempt_id)))
        self.tell(JournalHealed())


def beside_prompt_bytes(tenants: int, depth: int) -> float:
    """Weigh a waiting task by what Python allocated, without the string of its prompt."""
    crowd = Crowd(tenants, 1_000)
    gc.collect()
    tracemalloc.start()
    prompts = 0
    for number in range(crowd.numbers + 1, crowd.numbers + 1 + depth):
        key, _ = crowd.submit(number)
        prompts += sys.getsizeof(crowd.core.state.tasks[key].spec.prompt)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (grown - prompts) / depth


def in_turns(cells: dict[tuple[int, int], Crowd], rounds: int) -> None:
    """Let every cell have its turn again and again, so that what else runs on the machine meets all of them."""
    for _ in range(rounds):
        for crowd in cells.values():
            for _ in range(10):
                crowd.go_round()


def measure(quick: bool) -> Report:
    """Take all cells of the table, and the ratio of each to the smallest cell of its step."""
    report = Report("core_scale", quick)
    depths, rounds, weighed = ((0, 50, 500), 3, 500) if quick else (DEPTHS, 40, 20_000)
    cells = {(depth, tenants): Crowd(tenants, depth) for depth in depths for tenants in TENANTS}
    in_turns(cells, 1)
    for crowd in cells.values():
        crowd.took = {step: [] for step in STEPS}
    in_turns(cells, rounds)
    for step in STEPS:
        found = {cell: median(crowd.took[step]) / 1000 for cell, crowd in cells.items()}
        least = min(found.values())
        for (depth, tenants), took_us in found.items():
            name = f"{step}, {depth} waiting, {tenants} tenants"
            report.add(name, took_us, "µs", f"{took_us / least:.2f} × the smallest")
        report.detail[step] = {f"{depth} / {tenants}": took_us for (depth, tenants), took_us in found.items()}
        report.add(f"{step}: largest over smallest", max(found.values()) / least, "×")
    for tenants in TENANTS:
        weight = beside_prompt_bytes(tenants, weighed)
        report.add(f"memory of a waiting task beside its prompt, {tenants} tenants", weight, "bytes")
    return report


if __name__ == "__main__":
    command("core_scale", STORY, measure)
