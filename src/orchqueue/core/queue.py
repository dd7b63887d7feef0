"""A pool's bounded queue: one line per class, whose turn it is, and what gives way when it is full."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.core.lines import Line
from orchqueue.core.outcome import Outcome
from orchqueue.core.policies import POLICIES
from orchqueue.core.ranks import Work
from orchqueue.core.settings import ClassSettings, Scheduling
from orchqueue.core.task import Task


class Room(msgspec.Struct, frozen=True):
    """There is room, perhaps after a victim has gone."""

    victim: Task | None = None
    victim_outcome: Outcome = Outcome.DROPPED_VICTIM


class Full(msgspec.Struct, frozen=True):
    """There is no room."""

    outcome: Outcome


class Ahead(msgspec.Struct, frozen=True):
    """What stands before a waiting task: of its class its tenant's `own` and the `others`', and all by class.

    `to_come`: how many more of each other class may start before it, though they are not here yet.
    """

    own: Work
    others: Work
    later: list[Tenant]
    classes: dict[str, Work]
    to_come: dict[str, int]

    @property
    def work(self) -> Work:
        """Sum up."""
        found = Work()
        for work in self.classes.values():
            found = found.plus(work)
        return found


class PoolQueue:
    """All lines of one pool. `capacity` bounds their sum, each class its own line.

    Req: ORCH-4157, ORCH-4158, ORCH-4159
    """

    def __init__(self, capacity: int, classes: tuple[ClassSettings, ...], scheduling: Scheduling = "fair") -> None:
        self._scheduling = scheduling
        self._policy = POLICIES[scheduling]
        self.share = self._policy.new_state()
        self.lines: dict[str, Line] = {c.name: Line(self._policy) for c in classes}
        self._bound(capacity, classes)

    def configure(self, capacity: int, classes: tuple[ClassSettings, ...], scheduling: Scheduling = "fair") -> None:
        """Take new bounds and policies; tasks that already wait stay, even above a lowered bound."""
        old_weights = self.weights
        self._bound(capacity, classes)
        if scheduling != self._scheduling:
            waiting = [task for line in self.lines.values() for task in line.by_seq.values()]
            prompt_ppm = {name: line.prompt_ppm for name, line in self.lines.items()}
            PoolQueue.__init__(self, capacity, classes, scheduling)
            for task in waiting:
                self.push(task)
            for name, line in self.lines.items():
                line.prompt_ppm = prompt_ppm[name]
        elif self.weights != old_weights:
            self.share = self._policy.new_state()

    def _bound(self, capacity: int, classes: tuple[ClassSettings, ...]) -> None:
        self.capacity = capacity
        self.classes: dict[str, ClassSettings] = {c.name: c for c in classes}
        self.weights: dict[str, int] = {c.name: c.weight for c in classes}

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    @property
    def shares_tenants(self) -> bool:
        """Tell whether tenants take turns; if not, a class goes by arrival."""
        return self._policy.charge(1, 1, 1) > 0

    def turns(self) -> Sequence[str]:
        """Rank the classes that have something waiting, the next one first."""
        heads = {name: line.arrivals.first for name, line in self.lines.items() if line.by_seq}
        return self._policy.pick(self.share, self.weights, heads)

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

    def between_places(self, priority: str) -> Work:
        """Tell the work that is started from one freed place for a class to the next.

        A full pool gives a place with every start, a full class only with its own: until then others have their turns.
        """
        own = self.lines[priority].arrivals
        if len(self) >= self.capacity or not len(own):
            waiting = Work()
            for line in self.lines.values():
                waiting = waiting.plus(line.arrivals.total)
            return waiting.part(1) if waiting.tasks else Work(1, 1, 0)
        found = own.total.part(1)
        for name, line in self.lines.items():
            if name != priority and line.by_seq:
                weights = self.weights[priority], self.weights[name]
                passing = self._policy.passing(*weights, 0, line.arrivals, own.first)
                found = found.plus(line.arrivals.total.part(passing))
        return found

    def _lru_victim(self, priority: str, class_full: bool) -> Task | None:
        rank = self.weights[priority]
        allowed = [priority] if class_full else [name for name, weight in self.weights.items() if weight <= rank]
        for name in sorted(allowed, key=lambda n: self.weights[n]):
            if self.lines[name].by_seq:
                return self.lines[name].oldest
        return None

    def _shed_victim(self, priority: str, class_full: bool) -> Task | None:
        if priority != "interactive" or class_full or not self.lines["batch"].by_seq:
            return None
        return self.lines["batch"].youngest

    def push(self, task: Task) -> None:
        """Let a task wait."""
        self.lines[task.spec.priority].push(task)

    def remove(self, task: Task) -> None:
        """Take a task out."""
        self.lines[task.spec.priority].remove(task)

    def start(self, task: Task) -> None:
        """Take a task out because it starts: its class has had a turn, and its tenant is charged."""
        self._policy.serve(self.share, self.weights, task.spec.priority)
        self.lines[task.spec.priority].start(task)

    def put_back(self, task: Task) -> None:
        """Take the charge of a start back that came to nothing."""
        self.lines[task.spec.priority].refund(task)

    def settle(self, task: Task) -> None:
        """Correct what a task's tenant was charged to what the task decoded."""
        self.lines[task.spec.priority].settle(task, task.tokens_out)

    def price_prompts(self, prefill_us: int, decode_us: int) -> None:
        """Have a prompt token cost its tenant what it takes here, measured in decoded tokens.

        Where tokens seem to be decoded in no time, because they come all at once, that tells nothing and the price stays.
        """
        if decode_us > 0:
            for line in self.lines.values():
                line.prompt_ppm = prefill_us * 1_000_000 // decode_us

    def ahead_by_class(self, task: Task) -> dict[str, int]:
        """Count what will probably start before a task, class by class.

        Cost: O(log n).
        """
        ahead = self.look_ahead(task)
        return {name: work.tasks for name, work in ahead.classes.items()}

    def ahead(self, task: Task) -> Work:
        """Sum up what will probably start before a task.

        Cost: O(log n).
        """
        return self.look_ahead(task).work

    def look_ahead(self, task: Task) -> Ahead:
        """Tell what stands before a task, in parts.

        Cost: O(log n).
        """
        name = task.spec.priority
        own, others, later = self.lines[name].ahead_in_parts(task)
        mine = own.plus(others)
        classes, to_come = {str(name): mine}, dict[str, int]()
        for other, line in self.lines.items():
            if other == name:
                continue
            weights = self.weights[name], self.weights[other]
            passing = 0
            if line.by_seq:
                passing = self._policy.passing(*weights, mine.tasks, line.arrivals, task.seq)
                classes[other] = line.arrivals.total.part(passing)
            to_come[other] = self._policy.to_come(*weights, mine.tasks, passing)
        return Ahead(own, others, later, classes, to_come)
