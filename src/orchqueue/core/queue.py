"""A pool's bounded queue: one line per class, first in first out, and what gives way when it is full."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

from orchqueue.core.outcome import Outcome
from orchqueue.core.settings import ClassSettings
from orchqueue.core.task import Task


class Line(msgspec.Struct):
    """The waiting tasks of one class in order of acceptance.

    Cost: push at the end and positions O(log n); removal moves at most 8 bytes per waiting task.
    Req: ORCH-3005
    """

    order: list[int] = []
    by_seq: dict[int, Task] = {}
    cost_tokens: int = 0

    def __len__(self) -> int:
        return len(self.order)

    def push(self, task: Task) -> None:
        """Insert by acceptance order: a task that comes back takes its old place."""
        if not self.order or task.seq > self.order[-1]:
            self.order.append(task.seq)
        else:
            insort(self.order, task.seq)
        self.by_seq[task.seq] = task
        self.cost_tokens += task.cost_tokens

    def remove(self, task: Task) -> None:
        """Take a task out, wherever it stands."""
        del self.by_seq[task.seq]
        del self.order[bisect_left(self.order, task.seq)]
        self.cost_tokens -= task.cost_tokens

    def position(self, task: Task) -> int:
        """Count the tasks ahead."""
        return bisect_left(self.order, task.seq)

    def __iter__(self) -> Iterator[Task]:
        for seq in self.order:
            yield self.by_seq[seq]

    @property
    def oldest(self) -> Task:
        """Give the head."""
        return self.by_seq[self.order[0]]

    @property
    def youngest(self) -> Task:
        """Give the tail."""
        return self.by_seq[self.order[-1]]


class Room(msgspec.Struct, frozen=True):
    """There is room, perhaps after a victim has gone."""

    victim: Task | None = None
    victim_outcome: Outcome = Outcome.DROPPED_VICTIM


class Full(msgspec.Struct, frozen=True):
    """There is no room."""

    outcome: Outcome


class PoolQueue:
    """All lines of one pool. `capacity` bounds their sum, each class its own line.

    Req: ORCH-4157, ORCH-4158, ORCH-4159
    """

    def __init__(self, capacity: int, classes: tuple[ClassSettings, ...]) -> None:
        self.configure(capacity, classes)
        self.lines: dict[str, Line] = {c.name: Line() for c in classes}

    def configure(self, capacity: int, classes: tuple[ClassSettings, ...]) -> None:
        """Take new bounds and policies; tasks that already wait stay, even above a lowered bound."""
        self.capacity = capacity
        self.classes: dict[str, ClassSettings] = {c.name: c for c in classes}
        self.weights: dict[str, int] = {c.name: c.weight for c in classes}

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines.values())

    @property
    def waiting_classes(self) -> list[str]:
        """Name the classes that have something waiting."""
        return [name for name, line in self.lines.items() if line.order]

    def make_room(self, priority: str) -> Room | Full:
        """Decide whether a newcomer of a class may enter, and who gives way.

        1. Room in its class and in the pool: enter.
        2. Otherwise its class's policy decides. A full class line allows only victims of that class.

        The victim is named, not removed: the caller ends it, which removes it.

        Req: ORCH-3004, ORCH-3006, ORCH-4160, ORCH-4161
        """
        own = self.classes[priority]
        class_full = len(self.lines[priority]) >= own.capacity
        if not class_full and len(self) < self.capacity:
            return Room()
        if own.full_policy == "drop-lru":
            victim = self._lru_victim(priority, class_full)
            return Room(victim) if victim else Full(Outcome.DROPPED_NO_VICTIM)
        if own.full_policy == "shed-low-priority":
            victim = self._shed_victim(priority, class_full)
            return Room(victim, Outcome.SHED_VICTIM) if victim else Full(Outcome.REJECTED_SHED)
        return Full(Outcome.REJECTED_FULL)

    def _lru_victim(self, priority: str, class_full: bool) -> Task | None:
        rank = self.weights[priority]
        allowed = [priority] if class_full else [name for name, weight in self.weights.items() if weight <= rank]
        for name in sorted(allowed, key=lambda n: self.weights[n]):
            if self.lines[name].order:
                return self.lines[name].oldest
        return None

    def _shed_victim(self, priority: str, class_full: bool) -> Task | None:
        if priority != "interactive" or class_full or not self.lines["batch"].order:
            return None
        return self.lines["batch"].youngest

    def push(self, task: Task) -> None:
        """Let a task wait."""
        self.lines[task.spec.priority].push(task)

    def remove(self, task: Task) -> None:
        """Take a task out."""
        self.lines[task.spec.priority].remove(task)

    def ahead_by_class(self, task: Task) -> dict[str, int]:
        """Count what will probably start before a task, class by class.

        Exact inside the task's own class; of every other class as many as its weight lets pass meanwhile.

        Cost: O(log n).
        """
        own = self.lines[task.spec.priority]
        position = own.position(task)
        weight = self.weights[task.spec.priority]
        counts: dict[str, int] = {task.spec.priority: position}
        for name, line in self.lines.items():
            if line is own or not line.order:
                continue
            turns = position if self.weights[name] < weight else position + 1
            counts[name] = min(len(line), turns * self.weights[name] // weight)
        return counts

    def ahead(self, task: Task) -> tuple[int, int]:
        """Count what will probably start before a task.

        Shape: tasks, and the tokens they are expected to decode.
        Cost: O(log n).
        """
        counts = self.ahead_by_class(task)
        return sum(counts.values()), sum(_part(self.lines[name], count) for name, count in counts.items())


def _part(line: Line, count: int) -> int:
    return line.cost_tokens * count // len(line.order) if line.order else 0
