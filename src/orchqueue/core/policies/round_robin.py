"""Classes share starts by weight, tenants take turns task by task, however long their tasks are."""

from __future__ import annotations

from orchqueue.core.policies import fair

STARVES = False

new_state, pick, serve = fair.new_state, fair.pick, fair.serve
passing, to_come = fair.passing, fair.to_come


def charge(count: int, units: int, weight: int) -> int:
    """Price every start the same.

    >>> charge(1, 10, 2) == charge(1, 999, 1)
    True
    """
    return count
