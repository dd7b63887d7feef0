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
        self._charged: dict[Tenant, int] = {}

    def tag(self, tenant: Tenant, floor: int) -> int:
        """Tag a tenant's next task; `floor` is the clock when it came to the head of its tenant's line."""
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
        """Drop accounts that decide nothing: those that the clock has passed, and the least owed when there are too many."""
        if len(self._charged) <= REMEMBERED_AT_MOST:
            return
        owed = {t: charged for t, charged in self._charged.items() if charged > self.clock or t in waiting}
        most = sorted(owed, key=lambda t: (t in waiting, owed[t]), reverse=True)
        self._charged = {tenant: owed[tenant] for tenant in most[: REMEMBERED_AT_MOST // 2]}

    def __len__(self) -> int:
        return len(self._charged)
