"""The property tests bite: each machine fails on a bug planted into the core."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from orchqueue.core import dispatch, placement, submit_flow, task_flow
from orchqueue.core.decisions import Dropped
from orchqueue.core.ending import end
from orchqueue.core.ids import PoolId, TaskKey, Tenant
from orchqueue.core.log_entries import log_request
from orchqueue.core.outcome import Outcome
from orchqueue.core.policies import fair
from orchqueue.core.queue import PoolQueue
from orchqueue.core.request import TaskSpec
from orchqueue.core.shares import Shares
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue_sim.mutants import MUTANTS
from tests.properties.test_decisions import DecisionMachine
from tests.properties.test_fairness import FairnessMachine
from tests.properties.test_ledger import LedgerMachine
from tests.properties.test_life import LifeMachine
from tests.properties.test_placement import PlacementMachine
from tests.properties.test_queue import QueueMachine
from tests.properties.test_sessions import SessionMachine
from tests.properties.test_tenants import TenantMachine
from tests.properties.test_warmth import WarmthMachine

# The first failure is enough: neither shrunk nor kept for the next run.
HUNT = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
)


def passed_for_ever() -> AbstractContextManager[object]:
    """Pass a task that waits for its warm replica as often as others come."""
    return mock.patch.object(placement, "PASSES_AT_MOST", 1_000)


def wait_without_end() -> AbstractContextManager[object]:
    """Let a task wait for its warm replica until that is free, however long it takes."""
    return mock.patch.object(dispatch, "_wait_for_warmth", return_value=None)


def busiest_first() -> AbstractContextManager[object]:
    """Fill one replica before the next gets anything."""
    real = placement.free_replicas

    def busiest(state: State, pool: Pool) -> list[Replica]:
        return real(state, pool)[::-1]

    return mock.patch.object(placement, "free_replicas", busiest)


def newcomer_named() -> AbstractContextManager[object]:
    """Tell a task that was dropped for whom."""
    newest: list[str] = []

    def dropped(at_ms: int, key: str, pool_id: PoolId, policy: str, by_priority: str) -> Dropped:
        return Dropped(at_ms, key, pool_id, f"{policy} for {newest[-1]}", by_priority)

    def note(state: State, key: TaskKey, client_id: str, spec: TaskSpec, now_ms: int) -> None:
        newest.append(key)
        log_request(state, key, client_id, spec, now_ms)

    return mock.patch.multiple(submit_flow, Dropped=dropped, log_request=note)


def charge_never_corrected() -> AbstractContextManager[object]:
    """Leave a tenant's bill at what its task was expected to decode."""
    return mock.patch.object(PoolQueue, "settle", return_value=None)


def corrected_the_wrong_way() -> AbstractContextManager[object]:
    """Give back what should be charged, and the other way round."""
    real = Shares.correct

    def correct(self: Shares, tenant: Tenant, difference: int) -> None:
        real(self, tenant, -difference)

    return mock.patch.object(Shares, "correct", correct)


def past_claimed() -> AbstractContextManager[object]:
    """Let a newcomer claim what it could have had before it came."""
    real = Shares.tag

    def tag(self: Shares, tenant: Tenant, floor: int) -> int:
        return real(self, tenant, min(0, floor))

    return mock.patch.object(Shares, "tag", tag)


def charged_for_nothing() -> AbstractContextManager[object]:
    """Charge a task that is tried again for both starts."""
    return mock.patch.object(PoolQueue, "put_back", return_value=None)


def equal_weights() -> AbstractContextManager[object]:
    """Price tokens the same for every tenant."""
    real = fair.charge

    def charge(count: int, units: int, weight: int) -> int:
        return real(count, units, min(1, weight))

    return mock.patch.object(fair, "charge", charge)


def charged_though_canceled() -> AbstractContextManager[object]:
    """Keep the whole charge of a task that was canceled."""

    def kept(state: State, task: Task, outcome: Outcome, now_ms: int) -> None:
        task.charged = 0
        end(state, task, outcome, now_ms)

    return mock.patch.object(task_flow, "end", kept)


PLANTED: dict[str, Callable[[], AbstractContextManager[object]]] = MUTANTS | {
    planted.__name__: planted
    for planted in (
        passed_for_ever,
        wait_without_end,
        busiest_first,
        newcomer_named,
        charge_never_corrected,
        corrected_the_wrong_way,
        past_claimed,
        charged_for_nothing,
        equal_weights,
        charged_though_canceled,
    )
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("machine", "mutant"),
    [
        (QueueMachine, "lifo"),
        (FairnessMachine, "starve_batch"),
        (QueueMachine, "room_without_bounds"),
        (QueueMachine, "forget_victim"),
        (SessionMachine, "count_turn_twice"),
        (PlacementMachine, "pin_ignored"),
        (TenantMachine, "charge_never_corrected"),
        (TenantMachine, "corrected_the_wrong_way"),
        (TenantMachine, "past_claimed"),
        (TenantMachine, "charged_for_nothing"),
        (TenantMachine, "equal_weights"),
        (TenantMachine, "charged_though_canceled"),
        (WarmthMachine, "passed_for_ever"),
        (WarmthMachine, "wait_without_end"),
        (WarmthMachine, "busiest_first"),
        (LifeMachine, "release_on_cancel"),
        (LifeMachine, "finish_twice"),
        (LifeMachine, "no_fencing"),
        (LifeMachine, "cancel_ignored_while_bound"),
        (LifeMachine, "cancel_not_recorded"),
        (LifeMachine, "started_twice"),
        (LifeMachine, "withdrawal_ignored"),
        (LedgerMachine, "no_refund_on_cancel"),
        (LedgerMachine, "settle_twice"),
        (LedgerMachine, "reservation_lost_in_recovery"),
        (LedgerMachine, "fresh_minute_after_a_crash"),
        (LedgerMachine, "quota_of_keys_ignored"),
        (LedgerMachine, "refusals_cost_a_request"),
        (DecisionMachine, "start_not_logged"),
        (DecisionMachine, "refusal_logged_as_another"),
        (DecisionMachine, "newcomer_named"),
    ],
)
@pytest.mark.req("ORCH-4236")
def test_a_planted_bug_is_found(machine: type[RuleBasedStateMachine], mutant: str) -> None:
    """The machine that describes a rule fails when that rule is broken."""
    with PLANTED[mutant](), pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=HUNT)
