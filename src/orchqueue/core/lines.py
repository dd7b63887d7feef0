"""The waiting tasks of one class of one pool: in order of acceptance for each tenant, the tenants in turn."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heapreplace
from typing import NamedTuple

from orchqueue.core.ids import Tenant
from orchqueue.core.policies.policy import Policy
from orchqueue.core.ranks import Ranks, Work
from orchqueue.core.shares import Shares
from orchqueue.core.task import Task

LOOKED_AT_MOST = 24
MILLION = 1_000_000


class Turn(NamedTuple):
    """Where a tenant's first waiting task stands: smaller ones go first, by tag and then by acceptance.

    `floor` is the class's clock when the tenant began to wait, or was passed over last.
    """

    tag: int
    number: int
    tenant: Tenant
    floor: int


class Line:
    """One class's line.

    `prompt_ppm`: what a prompt token costs here, in millionths of a decoded one, so that a tenant pays for long prompts too.

    Cost: push, remove and a position take a few microseconds with 100 000 tasks or 1 000 tenants waiting.
    Req: ORCH-3005, ORCH-4156, ORCH-4363
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.prompt_ppm = 0
        self.by_seq: dict[int, Task] = {}
        self.arrivals = Ranks()
        self.shares = Shares()
        self._own: dict[Tenant, Ranks] = {}
        self._turns: dict[Tenant, Turn] = {}
        self._order: list[Turn] = []

    def __len__(self) -> int:
        return len(self.by_seq)

    def __iter__(self) -> Iterator[Task]:
        """Give the tasks in the order in which they would start if each took what it is expected to take.

        Cost: O(log n) for each task given.
        """
        turns = self._order.copy()
        rest: dict[Tenant, Iterator[int]] = {}
        while turns:
            turn = turns[0]
            task = self.by_seq[turn.number]
            yield task
            if turn.tenant not in rest:
                rest[turn.tenant] = iter(self._own[turn.tenant])
                next(rest[turn.tenant])
            following = next(rest[turn.tenant], None)
            if following is None:
                heappop(turns)
            else:
                heapreplace(turns, Turn(turn.tag + self._price(task), following, turn.tenant, turn.floor))

    def push(self, task: Task) -> None:
        """Let a task wait; one that comes back takes its old place among its tenant's."""
        self.by_seq[task.seq] = task
        self.arrivals.add(task.seq, task.cost_tokens, task.prefill_tokens)
        own = self._own.get(task.tenant)
        if own is None:
            own = self._own[task.tenant] = Ranks()
        own.add(task.seq, task.cost_tokens, task.prefill_tokens)
        if own.first == task.seq:
            left = self._leave(task.tenant)
            self._enter(task.tenant, self.shares.clock if left is None else left.floor)

    def remove(self, task: Task) -> None:
        """Take a task out, wherever it stands; its tenant is charged nothing."""
        self._take_out(task)
        left = self._leave(task.tenant)
        assert left is not None, f"{task.key} does not wait here"
        if task.tenant in self._own:
            self._enter(task.tenant, left.floor)
        elif not self.by_seq:
            self.shares.rest()

    def start(self, task: Task) -> None:
        """Take a task out because it starts, and charge its tenant.

        A tenant that is passed over, because nothing of it can run here, keeps its turn but saves no start up.
        """
        self._take_out(task)
        left = self._leave(task.tenant)
        assert left is not None, f"{task.key} does not wait here"
        task.charged = self._price(task)
        self.shares.start(task.tenant, left.tag, task.charged)
        for index in range(bisect_left(self._order, left)):
            passed = self._order[index]
            self._order[index] = self._turns[passed.tenant] = passed._replace(floor=max(passed.floor, left.tag))
        if task.tenant in self._own:
            self._enter(task.tenant, left.floor)
        elif not self.by_seq:
            self.shares.rest()
        self.shares.forget(self._own)

    def settle(self, task: Task, tokens: int) -> None:
        """Correct the charge of a start to what the task really decoded."""
        self._correct(task, self._charge(1, tokens, task.prefill_tokens, task.weight) - task.charged)

    def refund(self, task: Task) -> None:
        """Take the charge of a start back: the task waits again and will be charged when it starts."""
        self._correct(task, -task.charged)

    def _correct(self, task: Task, difference: int) -> None:
        task.charged = 0
        if not difference:
            return
        self.shares.correct(task.tenant, difference)
        left = self._leave(task.tenant)
        if left is not None:
            self._enter(task.tenant, left.floor)

    def position(self, task: Task) -> int:
        """Count the tasks of the class that start before this one, if each takes what it is expected to take."""
        return self.ahead(task).tasks

    def ahead(self, task: Task) -> Work:
        """Sum up what of the class starts before a task."""
        own, others, _ = self.ahead_in_parts(task)
        return own.plus(others)

    def ahead_in_parts(self, task: Task) -> tuple[Work, Work, list[Tenant]]:
        """Sum up what of the class starts before a task: of its tenant's own, and of all others.

        The third part lists tenants of which some waiting task starts later: what else they send will start later too.

        Exact for the tenant's own; of each other tenant as many as fit before its tag, at its average cost; beyond
        `LOOKED_AT_MOST` tenants the rest counts like the average of those looked at.
        """
        turn = self._turns[task.tenant]
        own = self._own[task.tenant].ahead(task.seq)
        tag = turn.tag + self._charge(*own, task.weight)
        if len(self._order) == 1:
            return own, Work(), []
        if self.policy.charge(1, 1, 1) == 0:
            return own, self.arrivals.ahead(task.seq).minus(own), []
        reached = bisect_left(self._order, Turn(tag, task.seq, task.tenant, 0))
        passing, waiting, later = [0, 0, 0], 0, list[Tenant]()
        looked = [turn for turn in self._order[: min(reached, LOOKED_AT_MOST + 1)] if turn.tenant != task.tenant]
        for other in looked[:LOOKED_AT_MOST]:
            total = self._own[other.tenant].total
            before = self._before(other, total, tag, task.seq)
            waiting += total.tasks
            passing[0] += before
            passing[1] += total.tokens * before // total.tasks
            passing[2] += total.prompts * before // total.tasks
            if before < total.tasks:
                later.append(other.tenant)
        found = Work(*passing)
        unseen = reached - (turn.number < task.seq) - min(len(looked), LOOKED_AT_MOST)
        if unseen > 0:
            left = len(self) - len(self._own[task.tenant]) - waiting
            found = found.plus(found.part(min(left, found.tasks * unseen // LOOKED_AT_MOST)))
        return own, found, later

    def _before(self, other: Turn, total: Work, tag: int, number: int) -> int:
        """Count how many of another tenant's tasks fit before a tag; an equal tag goes by acceptance."""
        weight = self.by_seq[other.number].weight
        each = max(1, self._charge(*total, weight) // total.tasks)
        whole, over = divmod(tag - other.tag, each)
        if over or whole >= total.tasks:
            return min(total.tasks, whole + 1)
        return whole + (self._own[other.tenant].at(whole) < number)

    def _price(self, task: Task) -> int:
        return self._charge(1, task.cost_tokens, task.prefill_tokens, task.weight)

    def _charge(self, count: int, tokens: int, prompts: int, weight: int) -> int:
        return self.policy.charge(count, tokens + prompts * self.prompt_ppm // MILLION, weight)

    def _take_out(self, task: Task) -> None:
        del self.by_seq[task.seq]
        self.arrivals.remove(task.seq)
        own = self._own[task.tenant]
        own.remove(task.seq)
        if not len(own):
            del self._own[task.tenant]

    def _enter(self, tenant: Tenant, floor: int) -> None:
        turn = Turn(self.shares.tag(tenant, floor), self._own[tenant].first, tenant, floor)
        self._turns[tenant] = turn
        insort(self._order, turn)

    def _leave(self, tenant: Tenant) -> Turn | None:
        turn = self._turns.pop(tenant, None)
        if turn is not None:
            del self._order[bisect_left(self._order, turn)]
        return turn

    def violations(self) -> list[str]:
        """List what of the line disagrees with itself.

        Cost: walks the whole line; not for the hot path.
        """
        waiting = sorted(self.by_seq)
        by_tenant: dict[Tenant, list[int]] = {}
        for number in waiting:
            by_tenant.setdefault(self.by_seq[number].tenant, []).append(number)
        found = []
        if list(self.arrivals) != waiting:
            found.append("has lost count of its arrivals")
        if {tenant: list(own) for tenant, own in self._own.items()} != by_tenant:
            found.append("mixes up its tenants")
        if {turn.tenant: turn.number for turn in self._order} != {t: own[0] for t, own in by_tenant.items()}:
            found.append("gives turns to others than the first of each tenant")
        if self._order != sorted(self._turns.values()):
            found.append("is out of turn")
        if self.cost_tokens != sum(task.cost_tokens for task in self.by_seq.values()):
            found.append("has lost count of its cost")
        return found

    @property
    def cost_tokens(self) -> int:
        """Sum up what the whole line is expected to decode."""
        return self.arrivals.total.tokens

    @property
    def oldest(self) -> Task:
        """Give the one that was accepted first."""
        return self.by_seq[self.arrivals.first]

    @property
    def youngest(self) -> Task:
        """Give the one that was accepted last."""
        return self.by_seq[self.arrivals.last]
