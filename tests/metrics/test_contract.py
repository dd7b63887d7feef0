"""The metrics contract: the registry is what ci/metrics.lint.json says, and no flood of label values gets past its budgets."""

import re
import threading
from pathlib import Path

import pytest

from orchqueue.adapters.metrics import OVERFLOW_NAME, Contract, MetricsRegistry, read_contract
from tests.metrics.registries import REPLICA, strict_registry
from tools.metrics_lint import CONTRACT_PATH, known_requirements, lint_contract, lint_registry, lint_scrape

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = read_contract(CONTRACT_PATH.read_bytes())


@pytest.fixture
def contract() -> Contract:
    """Give the committed contract."""
    return CONTRACT


@pytest.fixture
def registry(contract: Contract) -> MetricsRegistry:
    """Give a registry that tolerates no fault."""
    return strict_registry(contract)


@pytest.mark.req("ORCH-4046", "ORCH-4258", "ORCH-4275")
def test_the_registry_is_the_contract() -> None:
    """Every name, type, label and bucket of the live registry is the committed one, and the packed copy is current."""
    contract = read_contract(CONTRACT_PATH.read_bytes())
    assert list(lint_contract(contract, known_requirements())) == []
    assert list(lint_registry(contract)) == []
    packed = ROOT / "src" / "orchqueue" / "adapters" / "metrics_contract.json"
    assert packed.read_text(encoding="utf-8") == CONTRACT_PATH.read_text(encoding="utf-8"), "run `make gen`"


@pytest.mark.req("ORCH-4046", "ORCH-4258", "ORCH-4275", "ORCH-4294")
def test_names_and_labels_that_users_were_promised_are_there(contract: Contract) -> None:
    """The promised names with their types, labels and buckets, written down a second time on purpose."""
    found = {metric.name: (metric.type, " ".join(metric.labels)) for metric in contract.metrics}
    replica, pool = "engine engine_version pool_id replica_id", "engine engine_version pool_id priority"
    promised = {
        "tasks_enqueued_total": ("counter", f"{replica} priority"),
        "tasks_started_total": ("counter", f"{replica} priority"),
        "tasks_canceled_total": ("counter", f"{replica} reason"),
        "tasks_rejected_total": ("counter", "engine reason"),
        "admission_backpressure_events_total": ("counter", "engine policy"),
        "queue_depth": ("gauge", pool),
        "kv_cache_usage_ratio": ("gauge", replica),
        "gpu_utilization": ("gauge", f"{replica} device"),
        "vram_used_bytes": ("gauge", f"{replica} device"),
        "latency_first_token_ms": ("histogram", pool),
        "latency_decode_ms": ("histogram", pool),
        "tokens_in_total": ("counter", replica),
        "tokens_out_total": ("counter", replica),
    }
    assert {name: found.get(name) for name in promised} == promised
    buckets = {metric.name: list(metric.buckets) for metric in contract.metrics if metric.buckets}
    assert buckets["latency_first_token_ms"] == [
        50, 100, 150, 200, 300, 500, 750, 900, 1000, 1500, 2000, 2500, 3000, 5000,
    ]  # fmt: skip
    assert buckets["latency_decode_ms"] == [
        250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 6000, 8000, 12000, 30000,
    ]  # fmt: skip
    additive = {
        "predicted_start_error_ms": "histogram",
        "preload_outcomes_total": "counter",
        "failovers_total": "counter",
        "replica_restarts_total": "counter",
        "slo_attainment_ratio": "gauge",
        "host_ram_used_bytes": "gauge",
        "build_info": "gauge",
    }
    assert {name: found[name][0] for name in additive} == additive
    assert found["slo_attainment_ratio"][1] == "priority slo"
    assert found["failovers_total"][1] == "outcome"


@pytest.mark.req("ORCH-4046", "ORCH-4259")
def test_budgets_and_closed_sets_are_as_promised(contract: Contract) -> None:
    """Every budget, and every value that a reason or a policy may have, written down a second time on purpose."""
    promised = {
        "engine": 4, "engine_version": 64, "pool_id": 256, "replica_id": 1024, "priority": 8, "reason": 16,
        "device": 16, "policy": 4, "tenant": 256,
    }  # fmt: skip
    assert promised.items() <= contract.budgets.items()
    closed = {metric.name: metric.values for metric in contract.metrics}
    assert closed["tasks_canceled_total"]["reason"] == (
        "client", "disconnect", "wall_timeout", "idle_timeout", "deadline", "drain", "shutdown", "session_deleted",
    )  # fmt: skip
    codes = (
        "INVALID_PARAMS", "ADMISSION_REJECT", "QUEUE_FULL_DROP_LRU", "POOL_UNREADY", "POOL_UNAVAILABLE",
        "REPLICA_EXHAUSTED", "DECODE_TIMEOUT", "WORKER_RESET", "INTERNAL",
    )  # fmt: skip
    assert closed["tasks_rejected_total"]["reason"] == codes
    assert closed["tasks_failed_total"]["reason"] == codes
    assert closed["admission_backpressure_events_total"]["policy"] == ("reject", "drop-lru", "shed-low-priority")


def report(registry: MetricsRegistry, contract: Contract, label: str, values: list[str]) -> str:
    """Report these values of a label in every metric that has it, everything else being the same, and scrape."""
    for metric in contract.metrics:
        if label not in metric.labels or metric.name == OVERFLOW_NAME:
            continue
        rows = [
            tuple(
                value if name == label else metric.values[name][0] if name in metric.values else "x"
                for name in metric.labels
            )
            for value in values
        ]
        for row in rows:
            if metric.type == "counter":
                registry.count(metric.name, row, 1)
            elif metric.type == "histogram":
                registry.observe(metric.name, row, 1)
        if metric.type == "gauge":
            registry.replace_gauge(metric.name, [(row, 1) for row in rows])
    return registry.render().decode()


@pytest.mark.req("ORCH-4046", "ORCH-4259")
@pytest.mark.parametrize("label", sorted({name for metric in CONTRACT.metrics for name in metric.labels} - {"label"}))
def test_no_label_gets_past_its_budget(registry: MetricsRegistry, contract: Contract, label: str) -> None:
    """For every label of the contract: a flood of values leaves at most the budget and `other`, and each report is counted."""
    budget = contract.budgets[label]
    text = report(registry, contract, label, [f"flood{number}" for number in range(budget + 10)])
    faults = [fault for fault in lint_scrape(text, contract) if "none of" not in fault]
    assert not faults, f"{faults[0]}: what is over the budget must become `other`"
    shown = {value for value in re.findall(rf'[{{,]{label}="([^"]*)"', text) if not value.startswith(("x", label))}
    users = [metric for metric in contract.metrics if label in metric.labels]
    is_open = any(label not in metric.values for metric in users)
    assert "other" in shown
    assert len(shown - {"other"}) <= (budget if is_open else len(users[0].values[label]))
    (told,) = [line for line in text.splitlines() if line.startswith(f'{OVERFLOW_NAME}{{label="{label}"}}')]
    refused = sum(10 if label not in metric.values else budget + 10 for metric in users)
    assert float(told.rpartition(" ")[2]) == refused


@pytest.mark.req("ORCH-4046", "ORCH-4259")
def test_values_over_budget_become_other_and_are_counted(registry: MetricsRegistry) -> None:
    """The fifth engine is `other`; each report of it is counted, and known engines go on by their names."""
    for number in range(7):
        registry.count("tasks_rejected_total", (f"engine{number}", "INTERNAL"), 1)
    registry.count("tasks_rejected_total", ("engine6", "INTERNAL"), 1)
    registry.count("tasks_rejected_total", ("engine0", "INTERNAL"), 1)
    lines = registry.render().decode().splitlines()
    assert 'tasks_rejected_total{engine="engine0",reason="INTERNAL"} 2.0' in lines
    assert 'tasks_rejected_total{engine="other",reason="INTERNAL"} 4.0' in lines
    assert OVERFLOW_NAME + '{label="engine"} 4.0' in lines
    assert not [line for line in lines if "engine4" in line or "engine6" in line]


@pytest.mark.req("ORCH-4046")
def test_what_becomes_other_in_a_gauge_adds_up_where_it_can(registry: MetricsRegistry, contract: Contract) -> None:
    """Amounts of several pools over budget are summed, of shares the largest is shown, and nothing is left from the last scrape."""
    budget = contract.budgets["pool_id"]
    pools = [f"p{number}" for number in range(budget + 3)]
    for _ in range(2):
        registry.replace_gauge("queue_depth", [(("llamacpp", "1", pool, "batch"), 2) for pool in pools])
        registry.replace_gauge(
            "kv_cache_usage_ratio", [(("llamacpp", "1", pool, "r"), index / 1000) for index, pool in enumerate(pools)]
        )
    lines = registry.render().decode().splitlines()
    assert 'queue_depth{engine="llamacpp",engine_version="1",pool_id="other",priority="batch"} 6.0' in lines
    share = (budget + 2) / 1000
    assert (
        f'kv_cache_usage_ratio{{engine="llamacpp",engine_version="1",pool_id="other",replica_id="r"}} {share}' in lines
    )


@pytest.mark.req("ORCH-4046", "ORCH-4260")
def test_a_flood_of_label_values_does_not_fill_the_memory(registry: MetricsRegistry) -> None:
    """However many values come, the series stay bounded."""
    for number in range(5000):
        registry.count("tokens_out_total", ("llamacpp", "1", "p", f"replica{number}"), 1)
    lines = [line for line in registry.render().decode().splitlines() if line.startswith("tokens_out_total{")]
    assert len(lines) == 1025
    assert len(registry._counters) == 1024


@pytest.mark.req("ORCH-4258")
def test_what_is_not_in_the_contract_is_told_once_and_stops_nothing(contract: Contract) -> None:
    """A wrong name, kind or number of labels is dropped and reported, once for each name."""
    faults: list[str] = []
    registry = MetricsRegistry(contract, faults.append)
    for _ in range(3):
        registry.count("nope_total", (), 1)
        registry.count("queue_depth", ("a", "b", "c", "d"), 1)
        registry.observe("tokens_in_total", REPLICA, 1)
        registry.count("tokens_out_total", ("short",), 1)
        registry.replace_gauge("latency_decode_ms", [])
        registry.replace_gauge("queue_capacity", [(("short",), 1)])
    assert len(faults) == 6
    assert "nope_total" in faults[0]
    assert list(lint_scrape(registry.render().decode(), contract)) == []


@pytest.mark.req("ORCH-4261")
def test_a_gauges_series_vanish_with_what_they_measured(registry: MetricsRegistry) -> None:
    """A pool that is gone is gone from the next scrape."""
    registry.replace_gauge("queue_depth", [((*REPLICA[:3], "batch"), 3), ((*REPLICA[:3], "interactive"), 1)])
    registry.replace_gauge("queue_depth", [((*REPLICA[:3], "interactive"), 2)])
    lines = [line for line in registry.render().decode().splitlines() if line.startswith("queue_depth{")]
    assert len(lines) == 1
    assert lines[0].endswith(" 2.0")


def test_scrapes_in_a_thread_lose_no_counts(registry: MetricsRegistry) -> None:
    """Counting on one thread while another renders ends with the exact sum."""
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            registry.render()

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(20_000):
        registry.count("tokens_out_total", (*REPLICA[:3], f"p-{number % 40}"), 1)
    stop.set()
    thread.join()
    values = re.findall(r"^tokens_out_total\{.*\} (\S+)$", registry.render().decode(), re.MULTILINE)
    assert sum(map(float, values)) == 20_000
