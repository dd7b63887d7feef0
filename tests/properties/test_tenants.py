"""Tenants of one class share the slots by weight: through the whole core, against a model written from the requirements alone.

Over any span in which tenant j always has something waiting, what is decoded for a tenant i, less what is decoded for j, each
per weight, is at most s·(Mi + Mj + max(Mi, Mj)), for s slots and M the largest cost or expectation of a tenant's task:
1. i starts only while its claim is behind j's; from its last start on it gets at most that task, and both have at most s - 1
   running ones whose bill is still open: s·max(Mi, Mj).
2. When the span begins j owes at most what s tasks of it cost above the clock: s·Mj.
3. And i is at most what s running tasks of it were charged behind the clock; whoever has nothing waiting claims nothing: s·Mi.

Whoever lies about lengths, cancels, asks again or loses attempts is i or j like anybody else. A task of no tokens costs one.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import cycle, permutations
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId, TaskId, Tenant, task_key
from orchqueue.core.lines import Line
from orchqueue.core.policies import fair
from orchqueue.core.request import Priority, TaskSpec
from orchqueue.core.settings import TenantSettings
from orchqueue.core.task import Task
from tests.unit.core.driving import Driver, both_classes, pool_settings

PER_TOKEN = 6
CLASSES: tuple[Priority, ...] = ("interactive", "batch")
HEAVIER = 2
PICKS = st.integers(0, 1_000)
COUNTS = st.integers(1, 16)


class Asked(NamedTuple):
    """A task, and what it will really decode."""

    tenant: str
    priority: Priority
    number: int
    real: int
    hint: int


class Tally:
    """What one tenant got in one class, and what of it waits. `largest` of its costs and expectations.

    Units: sixths of a token per weight.
    """

    def __init__(self, weight: int) -> None:
        self.per_token = PER_TOKEN // weight
        self.weight = weight
        self.got = self.largest = 0
        self.waiting: list[int] = []
        self.starts = 0


class TenantMachine(RuleBasedStateMachine):
    """Tenants come late, ask for much or little, lie, cancel, ask again; attempts are lost."""

    @initialize(
        slots=st.sampled_from([1, 1, 2, 3]),
        weights=st.lists(st.integers(1, 3), min_size=2, max_size=4),
        lies=st.lists(st.sampled_from(["no", "less", "more"]), min_size=4, max_size=4),
        longest=st.sampled_from([2, 12]),
        classes=st.sampled_from([CLASSES[:1], CLASSES]),
    )
    def begin(
        self, slots: int, weights: list[int], lies: list[str], longest: int, classes: tuple[Priority, ...]
    ) -> None:
        pool = pool_settings(
            slots=slots,
            strict=False,
            capacity=10_000,
            classes=both_classes(10_000, interactive=HEAVIER),
            max_attempts=10_000,
        )
        self.slots, self.longest, self.classes, self.number = slots, longest, classes, 0
        self.names = [f"t{index}" for index in range(len(weights))]
        self.lies = dict(zip(self.names, lies, strict=False))
        tenants = tuple(TenantSettings(name, weight) for name, weight in zip(self.names, weights, strict=True))
        self.core = Driver(pool, tenants=tenants, poison_kills=10_000)
        self.tallies = {
            (p, name): Tally(weight) for p in classes for name, weight in zip(self.names, weights, strict=True)
        }
        self.asked: dict[str, Asked] = {}
        self.running: dict[int, Asked] = {}
        self.lowest: dict[tuple[Priority, str, str], int] = {}
        self.starts = dict.fromkeys(classes, 0)
        self.limits: dict[int, tuple[int, int]] = {}

    @rule(pick=PICKS, priority=st.sampled_from(CLASSES), count=COUNTS, real=st.integers(1, 12))
    def come(self, pick: int, priority: Priority, count: int, real: int) -> None:
        tenant = self.names[pick % len(self.names)]
        for _ in range(count):
            self._ask(tenant, priority if priority in self.classes else "interactive", min(real, self.longest))

    @precondition(lambda self: self.running)
    @rule(pick=PICKS, count=COUNTS)
    def serve(self, pick: int, count: int) -> None:
        for _ in range(count):
            if self.running:
                attempt = sorted(self.running)[pick % len(self.running)]
                task = self.running[attempt]
                self._ended(attempt, task.real)
                # Prompts are read in no time, so that only what is decoded counts.
                done = ev.AttemptCompleted(AttemptId(attempt), "stop", 2, task.real, 0, task.real)
                self._follow(self.core.handle(done) + self.core.close(attempt))

    @precondition(lambda self: self.limits)
    @rule(pick=PICKS, again=st.booleans())
    def cancel_waiting(self, pick: int, again: bool) -> None:
        numbers = sorted(self.limits)
        task = self.asked[f"n{numbers[pick % len(numbers)]}"]
        self.tallies[task.priority, task.tenant].waiting.remove(task.number)
        del self.limits[task.number]
        self._follow(self._cancel(task))
        if again:
            self._ask(task.tenant, task.priority, task.real)

    @precondition(lambda self: self.running)
    @rule(pick=PICKS, count=COUNTS, told=st.sampled_from([0, 1, 12]), lost=st.booleans())
    def trouble(self, pick: int, count: int, told: int, lost: bool) -> None:
        """Lose or cancel and send again what runs of one tenant, some times over."""
        tenant = self.running[sorted(self.running)[pick % len(self.running)]].tenant
        for _ in range(count):
            attempt = next((a for a, task in sorted(self.running.items()) if task.tenant == tenant), None)
            if attempt is None:
                self.serve(pick, 1)
            elif lost:
                self._lose(attempt)
            else:
                self._cancel_running(attempt, min(told, self.running[attempt].real))

    def _ask(self, tenant: str, priority: Priority, real: int) -> None:
        self.number += 1
        hint = {"no": real, "less": 1, "more": self.longest}[self.lies[tenant]]
        task = Asked(tenant, priority, self.number, real, hint)
        tally = self.tallies[priority, tenant]
        tally.largest = max(tally.largest, max(real, hint) * tally.per_token)
        own_ahead = len(tally.waiting) + self.slots
        tally.waiting.append(task.number)
        self.asked[f"n{task.number}"] = task
        self.limits[task.number] = own_ahead, self.starts[priority]
        limit = max(real, hint)
        self._follow(
            self.core.submit_of(tenant, f"n{task.number}", priority=priority, expected_tokens=hint, max_tokens=limit)
        )

    def _cancel(self, task: Asked) -> list[fx.AnyEffect]:
        key = task_key(Tenant(task.tenant), TaskId(f"n{task.number}"))
        return self.core.handle(ev.CancelRequested(self.core.reply(), key))

    def _cancel_running(self, attempt: int, told: int) -> None:
        task = self.running[attempt]
        if told:
            self.core.handle(ev.ChunksArrived(AttemptId(attempt), ("a",), told))
        self._ended(attempt, told)
        self._follow(self._cancel(task) + self.core.close(attempt))
        self._ask(task.tenant, task.priority, task.real)

    def _lose(self, attempt: int) -> None:
        task = self.running.pop(attempt)
        tally = self.tallies[task.priority, task.tenant]
        tally.waiting = sorted([*tally.waiting, task.number])
        self.limits[task.number] = tally.waiting.index(task.number) + self.slots, self.starts[task.priority]
        # What came to nothing passed nobody.
        self.starts[task.priority] -= 1
        effects = self.core.fail(attempt)
        self._follow(effects + self.core.handle(ev.ReplicaHealthy(ReplicaId("pr0"))))

    def _ended(self, attempt: int, tokens: int) -> None:
        task = self.running.pop(attempt)
        tally = self.tallies[task.priority, task.tenant]
        tally.got += max(1, tokens) * tally.per_token

    def _follow(self, effects: list[fx.AnyEffect]) -> None:
        """Take in what was started: each tenant's first of a class, no slot left free, nobody passed too often."""
        for start in self.core.wanted(fx.StartAttempt, effects):
            task = self.asked[start.key.rpartition("/")[2]]
            first = self.tallies[task.priority, task.tenant].waiting.pop(0)
            assert first == task.number, f"{task.tenant} has {first} before {task.number}"
            del self.limits[task.number]
            self.running[start.attempt_id] = task
            self.starts[task.priority] += 1
        assert not self.limits or len(self.running) == self.slots, "a slot idles"
        self._compare()

    def _compare(self) -> None:
        for priority in self.classes:
            for one, other in permutations(self.names, 2):
                pair, waits = (priority, one, other), self.tallies[priority, other].waiting
                if not waits:
                    self.lowest.pop(pair, None)
                    continue
                gap = self.tallies[priority, one].got - self.tallies[priority, other].got
                self.lowest[pair] = min(gap, self.lowest.get(pair, gap))
                ahead, most = gap - self.lowest[pair], self._most(*pair)
                assert ahead <= most, f"{one} got {ahead} sixths of a token more than {other}, at most {most} are fair"

    def _most(self, priority: Priority, one: str, other: str) -> int:
        large, larger = sorted(self.tallies[priority, name].largest for name in (one, other))
        return self.slots * (large + 2 * larger)

    @invariant()
    def nobody_is_passed_too_often(self) -> None:
        """Each other start costs at least a token, and of those each other tenant gets no more than is fair."""
        for number, (own_ahead, since) in getattr(self, "limits", {}).items():
            task = self.asked[f"n{number}"]
            most = own_ahead
            for name in self.names:
                tally = self.tallies[task.priority, name]
                if name != task.tenant:
                    fair = own_ahead * self.tallies[task.priority, task.tenant].largest + self._most(
                        task.priority, name, task.tenant
                    )
                    most += fair // tally.per_token + self.slots
            assert self.starts[task.priority] - since <= most, f"{number} was passed by more than {most}"

    def teardown(self) -> None:
        if hasattr(self, "core"):
            while self.running:
                self.serve(0, 1)
            assert not self.limits, "everything starts"


TestTenants = pytest.mark.req("ORCH-3005", "ORCH-4154", "ORCH-4156", "ORCH-4236", "ORCH-4360", "ORCH-4364")(
    TenantMachine.TestCase
)
TestTenants.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.mark.req("ORCH-4156", "ORCH-4236")
@given(
    slots=st.integers(1, 8),
    weights=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    reals=st.tuples(*[st.lists(st.integers(1, 60), min_size=1, max_size=4)] * 2),
    hints=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_who_always_waits_gets_its_share_however_lengths_are_missed(
    slots: int, weights: tuple[int, int], reals: tuple[list[int], list[int]], hints: tuple[int, int]
) -> None:
    """On engines that decode a token a moment the two stay within what is fair for as long as one likes to watch."""
    line, running = Line(fair), list[tuple[int, int, Task]]()
    got, lengths, real_of, now = [0, 0], [cycle(own) for own in reals], dict[int, int](), 0
    large, larger = sorted(max(*reals[who], hints[who]) * PER_TOKEN // weights[who] for who in (0, 1))

    def come(who: int) -> None:
        seq = len(real_of)
        real_of[seq] = next(lengths[who])
        line.push(
            Task(TaskId(f"n{seq}"), Tenant(str(who)), TaskSpec(), "", seq, cost_tokens=hints[who], weight=weights[who])
        )

    come(0)
    come(1)
    least = most = 0
    for _ in range(500):
        if len(running) == slots:
            now, _, ended = heappop(running)
            line.settle(ended, real_of[ended.seq])
            got[int(ended.tenant)] += real_of[ended.seq] * PER_TOKEN // ended.weight
            least, most = min(least, got[0] - got[1]), max(most, got[0] - got[1])
        following = next(iter(line))
        come(int(following.tenant))
        line.start(following)
        heappush(running, (now + real_of[following.seq], following.seq, following))
    assert most - least <= slots * (large + 2 * larger), f"{got} sixths of a token per weight"
