"""Each hostile or clumsy request gets its documented answer, queues nothing and leaves the edge serving."""

from collections.abc import Iterator

import httpx
import pytest

from orchqueue.http.limits import EdgeLimits
from tests.contract.edge.hostile import CASES, Case, judge, provoke
from tests.contract.edge.stage import Stage, running

IMPATIENT = EdgeLimits(header_timeout_ms=400, body_timeout_ms=400, idle_timeout_ms=400)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Run one edge for the whole table, so that what a case breaks hits the next ones."""
    with running(IMPATIENT) as running_stage:
        yield running_stage


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
def test_hostile_request(stage: Stage, case: Case) -> None:
    """The case is answered as documented, nothing is queued, and the next client is served."""
    reply = provoke(("127.0.0.1", stage.port), case)
    judge(case, reply)
    assert stage.runtime.submissions == 0
    assert httpx.get(f"{stage.url}/healthz").status_code == 200


def test_table_is_large_enough() -> None:
    """The table holds at least the sixty provocations that were promised, each under its own name."""
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
