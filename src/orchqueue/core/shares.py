"""What each tenant of a class was served, in the policy's units, and where that puts its next task.

Start-time fair queueing: a tenant's next task is tagged with the later of the class's clock and the end of what the
tenant was charged for so far; the smallest tag goes first. The clock follows the tags served, so nobody saves turns up
while away. A start is charged by what the task is expected to take; when the task has ended the charge is corrected to what
it took, so a wrong expectation moves nothing but the moment of the bill.
"""

from __future__ import annotations

from collections.abc import Container

from orchqueue.core.ids import Tenant

REMEMBERED_AT_MOST = 4_096


class Shares:
    """The accounts of one class.

    Shape: tags and charges are whole numbers in the policy's units.
    Req: ORCH-4156, ORCH-4364
    """

    def __init__(self) -> None:
        self.clock = 0
        self._latest = 0
        self._room = REMEMBERED_AT_MOST
        self._charged: dict[Tenant, int] = {}

    def tag(self, tenant: Tenant, floor: int) -> int:
        """Tag a tenant's next task; `floor` is the clock when it began to wait, for what it got too little since it may claim."""
        return max(floor, self._charged.get(tenant, 0))

    def start(self, tenant: Tenant, tag: int, charge: int) -> None:
        """Charge a start that had this tag."""
        self.clock = max(self.clock, tag)
        self._charged[tenant] = tag + charge
        self._latest = max(self._latest, tag + charge)

    def correct(self, tenant: Tenant, difference: int) -> None:
        """Charge more, or give back, once it is known what a task took."""
        self._charged[tenant] = self._charged.get(tenant, self.clock) + difference

    def rest(self) -> None:
        """Begin anew with equal claims when nobody waits; what was charged above all starts is still owed.

        Cost: the tenants charged since nobody waited last.
        """
        self.clock = self._latest
        self._charged = {tenant: charged for tenant, charged in self._charged.items() if charged > self.clock}

    def forget(self, waiting: Container[Tenant]) -> None:
        """Drop accounts that decide nothing: those that the clock has passed, and the least owed when there are too many.

        Whoever waits keeps its account: without it, it could claim again what it was given.

        Cost: nothing until there are twice as many as were left the last time.
        """
        if len(self._charged) <= self._room:
            return
        kept = {tenant: charged for tenant, charged in self._charged.items() if tenant in waiting}
        owed = [tenant for tenant, charged in self._charged.items() if charged > self.clock and tenant not in waiting]
        most = sorted(owed, key=self._charged.__getitem__, reverse=True)
        self._charged = kept | {tenant: self._charged[tenant] for tenant in most[: REMEMBERED_AT_MOST // 2]}
        self._room = max(REMEMBERED_AT_MOST, 2 * len(self._charged))

    def __len__(self) -> int:
        return len(self._charged)
