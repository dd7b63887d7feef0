"""A cardinality attack on a real daemon: budgets hold, what is over them is `other`, and no amount is lost."""

import re

import pytest

from orchqueue.adapters.metrics import OVERFLOW_NAME, read_contract
from tests.metrics.conftest import Told
from tests.metrics.flood import DEAD_POOLS, DEAD_REPLICAS, ENGINES, Flooded
from tools.metrics_lint import CONTRACT_PATH, lint_complete, lint_scrape

CONTRACT = read_contract(CONTRACT_PATH.read_bytes())
FLOODED = {"engine_version", "pool_id", "replica_id", "device"}

pytestmark = [pytest.mark.timeout(300), pytest.mark.req("ORCH-4046")]


def values_of(text: str, label: str) -> set[str]:
    """Collect the values of a label."""
    return set(re.findall(rf'[{{,]{label}="([^"]*)"', text))


def total(text: str, name: str, part: str = "") -> float:
    """Add up the series of a metric whose labels hold a text."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and part in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_budgets_hold_under_a_flood(flooded: Flooded) -> None:
    """More versions, pools, replicas and devices than budgeted: the scrape keeps the contract, and each flooded label is full."""
    assert list(lint_scrape(flooded.after, CONTRACT)) == []
    for label in FLOODED:
        values = values_of(flooded.after, label)
        assert "other" in values
        assert len(values) == CONTRACT.budgets[label] + 1, label


def test_every_flooded_label_is_counted_and_no_other(flooded: Flooded) -> None:
    """The overflow counter names exactly the labels that were flooded."""
    assert values_of(flooded.after, "label") == FLOODED
    for label in FLOODED:
        assert total(flooded.after, OVERFLOW_NAME, f'"{label}"') > 0


def test_no_amount_is_lost_in_other(flooded: Flooded) -> None:
    """Sums over all series are exact, although many of them became one."""
    dead = DEAD_POOLS * DEAD_REPLICAS
    assert total(flooded.after, "replicas", 'state="ready"') == ENGINES
    assert total(flooded.after, "replicas", 'state="backoff"') == dead
    assert total(flooded.after, "queue_capacity") == 2 * 128 * (ENGINES + DEAD_POOLS)
    assert total(flooded.after, "replica_restarts_total") == dead
    assert total(flooded.after, "preload_outcomes_total", 'outcome="failed"') == dead
    assert total(flooded.after, "preload_outcomes_total", 'outcome="ready"') == ENGINES
    assert total(flooded.after, "tasks_enqueued_total") == ENGINES
    assert total(flooded.after, "latency_decode_ms_count") == ENGINES


def test_clients_cannot_add_label_values(flooded: Flooded) -> None:
    """Whatever names clients invent, no series has them: they are refused, and what is counted of that is one series."""
    assert flooded.refused > 0
    assert "flood" not in flooded.after
    measured = {"slo_attainment_ratio"}  # there only once a first token came
    for name in {metric.name for metric in CONTRACT.metrics if metric.type == "gauge"} - measured:
        assert flooded.after.count(f"{name}{{") == flooded.before.count(f"{name}{{"), name
    assert flooded.after.count("tasks_rejected_total{") == 1
    assert values_of(flooded.after, "engine") == {"llamacpp"}
    assert values_of(flooded.after, "priority") == {"interactive", "batch"}


@pytest.mark.real_engine
def test_every_series_of_the_contract_was_really_emitted(told: Told, flooded: Flooded) -> None:
    """In the workload and the flood together each metric moved, and each reason, policy, state and outcome that is not reserved."""
    assert list(lint_complete([told.scrape, flooded.before, flooded.after], CONTRACT)) == []
