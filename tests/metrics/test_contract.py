"""The metrics contract: what the daemon reports is what ci/metrics.lint.json says, and the linter bites."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from orchqueue.adapters.metrics import OVERFLOW_NAME, Contract, MetricsRegistry, read_contract
from tools.metrics_lint import CONTRACT_PATH, lint_contract, lint_registry, lint_scrape, main

ROOT = Path(__file__).resolve().parents[2]
REPLICA = ("llamacpp", "1.0", "p", "p-0")


@pytest.fixture
def contract() -> Contract:
    """Give the committed contract."""
    return read_contract(CONTRACT_PATH.read_bytes())


@pytest.fixture
def registry(contract: Contract) -> MetricsRegistry:
    """Give a registry that tolerates no fault."""

    def refuse(message: str) -> None:
        raise AssertionError(message)

    return MetricsRegistry(contract, refuse)


def filled(registry: MetricsRegistry) -> str:
    """Put something into each kind of metric and scrape."""
    registry.count("tasks_enqueued_total", ("llamacpp", "1.0", "p", "-", "batch"), 1)
    registry.count("tokens_out_total", REPLICA, 7)
    registry.observe("latency_first_token_ms", ("llamacpp", "1.0", "p", "batch"), 120)
    registry.replace_gauge("queue_depth", [(("llamacpp", "1.0", "p", "batch"), 3)])
    return registry.render().decode()


def test_the_registry_is_the_contract() -> None:
    """Every name, type, label and bucket of the live registry is the committed one, and the packed copy is current."""
    contract = read_contract(CONTRACT_PATH.read_bytes())
    assert list(lint_contract(contract)) == []
    assert list(lint_registry(contract)) == []
    packed = ROOT / "src" / "orchqueue" / "adapters" / "metrics_contract.json"
    assert packed.read_text(encoding="utf-8") == CONTRACT_PATH.read_text(encoding="utf-8"), "run `make gen`"


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
    budgets = {"engine": 4, "engine_version": 64, "pool_id": 256, "replica_id": 1024, "priority": 8, "reason": 16}
    assert budgets.items() <= contract.budgets.items()


def test_a_good_scrape_has_no_differences(registry: MetricsRegistry, contract: Contract) -> None:
    """The linter is silent where nothing is wrong."""
    assert list(lint_scrape(filled(registry), contract)) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"tokens_out_total", "tokens_made_total", "tokens_made: is not in the contract"),
        (r"tokens_out_total", "tokens_made_total", "tokens_out: is in the contract and not in the scrape"),
        (r"TYPE queue_depth gauge", "TYPE queue_depth counter", "queue_depth: is a counter, must be a gauge"),
        (r'queue_depth\{engine="llamacpp",', "queue_depth{", "queue_depth: has the labels"),
        (r"queue_depth\{", 'queue_depth{tenant="t",', "queue_depth: has the labels"),
        (r"HELP queue_depth Tasks", "HELP queue_depth Jobs", "queue_depth: its help text"),
        (r'le="750.0"', 'le="751.0"', "latency_first_token_ms: has the buckets"),
        (r'le="5000.0"', 'le="6000.0"', "latency_first_token_ms: has the buckets"),
        (r"(tokens_out_total\{.*\}) 7.0", r"\1 -7.0", "tokens_out_total: has the value -7.0"),
        (r"(queue_depth\{.*\}) 3.0", r"\1 NaN", "queue_depth: has the value nan"),
        (r"(queue_depth\{.*\}) 3.0", r"\1 three", "the scrape is no exposition text"),
    ],
)
def test_each_kind_of_difference_in_a_scrape_is_found(
    registry: MetricsRegistry, contract: Contract, pattern: str, replacement: str, message: str
) -> None:
    """A planted fault of each kind is named."""
    text, planted = re.subn(pattern, replacement, filled(registry))
    assert planted
    assert any(message in fault for fault in lint_scrape(text, contract)), list(lint_scrape(text, contract))


def test_a_label_over_its_budget_in_a_scrape_is_found(contract: Contract) -> None:
    """A daemon that does not keep the budget is caught from outside."""
    careless = msgspec.structs.replace(contract, budgets={**contract.budgets, "engine": 100})
    registry = MetricsRegistry(careless, print)
    for number in range(6):
        registry.count("tasks_rejected_total", (f"engine{number}", "INTERNAL"), 1)
    assert "label engine: 6 values, its budget is 4" in list(lint_scrape(registry.render().decode(), contract))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metrics: metrics[0].update(name="tasks_enqueued"), "tasks_enqueued: counters, and only they"),
        (lambda metrics: metrics[5].update(name="queue_depth_total"), "queue_depth_total: counters, and only they"),
        (lambda metrics: metrics[5].update(buckets=[1]), "queue_depth: histograms, and only they, have buckets"),
        (lambda metrics: metrics[10].update(buckets=[]), "latency_first_token_ms: histograms, and only they"),
        (lambda metrics: metrics[10].update(buckets=[3, 2]), "latency_first_token_ms: its buckets do not rise"),
        (lambda metrics: metrics[10].update(unit="s"), "latency_first_token_ms: its name does not end in its unit"),
        (lambda metrics: metrics.append(metrics[0]), "tasks_enqueued_total: stands there twice"),
        (lambda metrics: metrics[5].update(name="Queue-Depth"), "Queue-Depth: is no name"),
    ],
)
def test_each_kind_of_fault_in_the_contract_is_found(change: object, message: str) -> None:
    """A contract that breaks its own rules does not pass."""
    content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
    assert callable(change)
    change(content["metrics"])
    faults = list(lint_contract(read_contract(json.dumps(content))))
    assert any(fault.startswith(message) for fault in faults), faults


def test_a_contract_that_differs_from_the_registry_is_found(tmp_path: Path) -> None:
    """A name that only one side has fails the command, by both names."""
    content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
    content["metrics"][0]["name"] = "tasks_queued_total"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, "-m", "tools.metrics_lint", "--contract", str(other)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "tasks_queued: is in the contract and not in the scrape" in done.stderr
    assert "tasks_enqueued: is not in the contract" in done.stderr


def test_the_command_reads_a_scrape(registry: MetricsRegistry, tmp_path: Path) -> None:
    """A scrape of a running daemon can be linted from a file."""
    scrape = tmp_path / "scrape"
    scrape.write_text(filled(registry))
    assert main(["--scrape", str(scrape)]) == 0
    scrape.write_text(filled(registry).replace("queue_depth", "depth"))
    assert main(["--scrape", str(scrape)]) == 1


def test_a_label_without_a_budget_is_refused() -> None:
    """No label can grow without bound because somebody forgot its budget."""
    content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
    del content["budgets"]["reason"]
    with pytest.raises(msgspec.ValidationError, match="labels without a budget: reason"):
        read_contract(json.dumps(content))


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


def test_a_flood_of_label_values_does_not_fill_the_memory(registry: MetricsRegistry) -> None:
    """However many values come, the series stay bounded."""
    for number in range(5000):
        registry.count("tasks_rejected_total", ("llamacpp", f"reason{number}"), 1)
    lines = [line for line in registry.render().decode().splitlines() if line.startswith("tasks_rejected_total{")]
    assert len(lines) == 17
    assert len(registry._counters) == 16


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
    assert len(faults) == 5
    assert "nope_total" in faults[0]
    assert list(lint_scrape(registry.render().decode(), contract)) == []


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
