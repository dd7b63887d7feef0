"""Each hostile or clumsy request gets its documented answer, queues nothing and leaves the edge serving."""

from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from orchqueue.http.limits import EdgeLimits
from tests.contract.edge.hostile import CASES, SLOW_BODIES, SLOW_HEADERS, Case, judge, provoke
from tests.contract.edge.stage import Stage, running

# The limit on headers runs from the connection on: what a case sends must come in time to be slow headers at all.
IMPATIENT_WITH_HEADERS = EdgeLimits(header_timeout_ms=1_000)
IMPATIENT_WITH_BODIES = EdgeLimits(body_timeout_ms=400)


class Stages(NamedTuple):
    """An edge in no hurry, and one for each kind of slowness."""

    patient: Stage
    for_headers: Stage
    for_bodies: Stage

    def of(self, case: Case) -> Stage:
        """Choose the edge on which only what the case is about can happen."""
        return self.for_headers if case in SLOW_HEADERS else self.for_bodies if case in SLOW_BODIES else self.patient


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    """Run the edges for the whole table, so that what a case breaks hits the next ones."""
    with (
        running() as patient,
        running(IMPATIENT_WITH_HEADERS) as for_headers,
        running(IMPATIENT_WITH_BODIES) as for_bodies,
    ):
        yield Stages(patient, for_headers, for_bodies)


@pytest.mark.req(
    "ORCH-2006",
    "ORCH-2008",
    "ORCH-2052",
    "ORCH-4020",
    "ORCH-4021",
    "ORCH-4022",
    "ORCH-4033",
    "ORCH-4068",
    "ORCH-4073",
    "ORCH-4074",
    "ORCH-4075",
    "ORCH-4080",
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_request(stages: Stages, case: Case) -> None:
    """The case is answered as documented, nothing is queued, and the next client is served."""
    stage = stages.of(case)
    reply = provoke(("127.0.0.1", stage.port), case)
    judge(case, reply)
    assert stage.runtime.submissions == 0
    assert httpx.get(f"{stage.url}/healthz").status_code == 200


def test_table_is_large_enough() -> None:
    """The table holds at least the sixty provocations that were promised, each under its own name."""
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
