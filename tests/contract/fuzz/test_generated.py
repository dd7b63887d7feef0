"""What schemathesis generates from the contract is answered by a live daemon as the contract says.

`make ci STAGE=fuzz` sends a fixed and small lot, the same in every run. `make fuzz EXAMPLES=500` sends a larger one from
another seed each time, which it prints; `make fuzz EXAMPLES=500 SEED=7` repeats one. What such a run finds is mended and
becomes a plain test in `test_regressions.py`.

Pools are drained and reloaded by the control plane's requests, so each plane is sent to a daemon of its own.
"""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from orchqueue.schema.contract import declared_operations
from tests.contract.fuzz.answers import answer_faults, operation
from tests.contract.fuzz.conftest import POOL, Guarded
from tests.contract.fuzz.generated import PHASES, Harvest, Plan, generate
from tests.contract.fuzz.transcripts import transcript_faults
from tests.daemon import Daemon
from tests.waiting import until

PLAN = Plan.of_environment()
HALF = Plan(PLAN.seed, max(10, PLAN.examples // 2))
# There is no model before the one that the pool serves and no configuration before the file's, and a session is there only as long
# as no other request forgets it.
NOT_ALWAYS_DONE = frozenset({"rollbackPool", "rollbackConfig", "getSession"})
TASK_OF_THE_EXAMPLES = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
WALK = ("streamTask", "getTask", "explainTask", "cancelTask", "getSession", "deleteSession", "listTasks", "getUsage")


def check(harvest: Harvest, plane: str, daemon: Daemon) -> None:
    """Demand that nothing went against the contract, and that every operation did what it is for at least once."""
    assert not harvest.failures, f"{len(harvest.failures)} failures, seed {PLAN.seed}:\n{harvest.report()}"
    assert daemon.process.poll() is None
    assert not [line for line in daemon.log if '"internal_error"' in line or '"bug"' in line]
    wanted = {one.id for one in declared_operations() if one.plane == plane}
    assert wanted - harvest.succeeded() <= NOT_ALWAYS_DONE


def check_keys_were_wanted(harvest: Harvest) -> None:
    """Demand that each call that succeeded with the key was refused without it, and with another."""
    guarded = {one.id for one in declared_operations() if one.scope is not None}
    refused = {name for name, status in harvest.statuses if status == 401}
    assert refused >= harvest.succeeded() & guarded


def check_normal_task(daemon: Daemon, key: str | None = None) -> None:
    """Demand that an ordinary client is served as if nothing had happened."""
    headers = {"accept": "text/event-stream"} | ({"x-api-key": key} if key else {})
    answer = httpx.post(f"{daemon.url}/v1/tasks", json={"prompt": "hi", "max_tokens": 8}, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert transcript_faults(answer.content) == []


def post_task_of_the_examples(daemon: Daemon, key: str | None = None) -> None:
    """Make the task that the contract's examples speak of, so that they lead somewhere."""
    headers = {"x-api-key": key} if key else {}
    task = {"prompt": "hi", "max_tokens": 4, "task_id": TASK_OF_THE_EXAMPLES}
    assert httpx.post(f"{daemon.url}/v1/tasks", json=task, headers=headers, timeout=30).status_code == 202


@pytest.mark.timeout(PLAN.patience_s)
@pytest.mark.req("ORCH-4045", "ORCH-4029", "ORCH-2002", "ORCH-2006", "ORCH-4021")
def test_data_plane(open_daemon: Daemon) -> None:
    """No request of the data plane, well-formed or not, alone or in a chain, brings out what is not declared."""
    post_task_of_the_examples(open_daemon)
    harvest = generate("data", open_daemon.url, PLAN)
    check(harvest, "data", open_daemon)
    assert harvest.phases.keys() >= set(PHASES)
    assert harvest.streams > PLAN.examples / 2
    assert harvest.refused() >= {400, 404, 405, 409, 415}
    check_normal_task(open_daemon)


@pytest.mark.timeout(PLAN.patience_s)
@pytest.mark.req("ORCH-4045", "ORCH-4029", "ORCH-2101", "ORCH-2102")
def test_control_plane(guarded: Guarded) -> None:
    """The same of the control plane, behind a key; a pool that was drained comes back when it is reloaded."""
    harvest = generate("control", guarded.daemon.url, HALF, key=guarded.key, may_be_unready=True)
    check(harvest, "control", guarded.daemon)
    check_keys_were_wanted(harvest)
    assert harvest.refused() >= {400, 404, 405, 409, 415}
    again = {"new_model_ref": "repo:test/sim"}

    def is_back() -> bool:
        reload_url = f"{guarded.daemon.url}/v1/pools/{POOL}/reload"
        status = httpx.post(reload_url, json=again, headers={"x-api-key": guarded.key}, timeout=30).status_code
        assert status in (202, 503), "503 while an earlier reload is under way"
        return status == 202

    until(is_back, what="a reload that is taken")
    guarded.daemon.wait_ready()
    check_normal_task(guarded.daemon, guarded.key)


@pytest.mark.timeout(PLAN.patience_s)
@pytest.mark.req("ORCH-4045", "ORCH-4194")
def test_data_plane_behind_keys(guarded: Guarded) -> None:
    """Every call of the data plane wants the key, whatever else is right or wrong with it."""
    post_task_of_the_examples(guarded.daemon, guarded.key)
    harvest = generate("data", guarded.daemon.url, HALF, key=guarded.key, phases=("coverage", "stateful"))
    check(harvest, "data", guarded.daemon)
    check_keys_were_wanted(harvest)


@pytest.mark.req("ORCH-4045", "ORCH-2001", "ORCH-2002", "ORCH-2003", "ORCH-2004")
def test_links_lead_from_the_post_to_the_end(open_daemon: Daemon) -> None:
    """What one client does in its life, call by call, each answered well and as declared."""
    with httpx.Client(base_url=open_daemon.url, timeout=30) as client:
        session_id = str(uuid4())
        posted = client.post("/v1/tasks", json={"prompt": "hi", "max_tokens": 4, "session_id": session_id})
        assert answer_faults("createTask", posted.status_code, posted.headers, posted.content) == []
        for name in WALK:
            path = operation(name).path.format(task_id=posted.json()["task_id"], session_id=session_id)
            answer = client.request(operation(name).method, path)
            assert answer.is_success, f"{name}: {answer.text}"
            assert answer_faults(name, answer.status_code, answer.headers, answer.content) == []
