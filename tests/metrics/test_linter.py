"""The linter bites: every rule has a fault of its own, planted in the contract or in a scrape."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchqueue.adapters.metrics import Contract, MetricsRegistry, read_contract
from tests.metrics.registries import filled, strict_registry
from tools.metrics_lint import (
    CODE_SETS,
    CONTRACT_PATH,
    known_requirements,
    lint_complete,
    lint_contract,
    lint_scrape,
    main,
)

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = read_contract(CONTRACT_PATH.read_bytes())

Change = Callable[[dict[str, Any]], object]


def test_a_good_scrape_has_no_differences() -> None:
    """The linter is silent where nothing is wrong."""
    assert list(lint_scrape(filled(strict_registry(CONTRACT)), CONTRACT)) == []


@pytest.mark.req("ORCH-4046", "ORCH-4262")
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
        (r'.*le="750.0".*\n', "", "latency_first_token_ms: has the buckets"),
        (r"(tokens_out_total\{.*\}) 7.0", r"\1 -7.0", "tokens_out_total: has the value -7.0"),
        (r"(queue_depth\{.*\}) 3.0", r"\1 NaN", "queue_depth: has the value nan"),
        (r"(kv_cache_usage_ratio\{.*\}) 0.5", r"\1 1.5", "kv_cache_usage_ratio: has the value 1.5"),
        (r"(queue_depth\{.*\}) 3.0", r"\1 three", "the scrape is no exposition text"),
        (r'priority="batch"\} 3.0', 'priority="urgent"} 3.0', "queue_depth: priority 'urgent' is none of"),
    ],
)
def test_each_kind_of_difference_in_a_scrape_is_found(pattern: str, replacement: str, message: str) -> None:
    """A planted fault of each kind is named."""
    text, planted = re.subn(pattern, replacement, filled(strict_registry(CONTRACT)))
    assert planted
    faults = list(lint_scrape(text, CONTRACT))
    assert any(message in fault for fault in faults), faults


@pytest.mark.req("ORCH-4046", "ORCH-4262")
def test_a_label_over_its_budget_in_a_scrape_is_found() -> None:
    """A daemon that does not keep the budget is caught from outside."""
    registry = MetricsRegistry(msgspec.structs.replace(CONTRACT, budgets={**CONTRACT.budgets, "engine": 100}), print)
    for number in range(6):
        registry.count("tasks_rejected_total", (f"engine{number}", "INTERNAL"), 1)
    assert "label engine: 6 values, its budget is 4" in list(lint_scrape(registry.render().decode(), CONTRACT))


def of(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Find a metric in the contract's JSON."""
    found: dict[str, Any] = next(metric for metric in content["metrics"] if metric["name"] == name)
    return found


def set_field(of_metric: str, **fields: object) -> Change:
    """Make a change that sets fields of one metric."""
    return lambda content: of(content, of_metric).update(fields)


DEPTH, FIRST, REJECTED = "queue_depth", "latency_first_token_ms", "tasks_rejected_total"


@pytest.mark.req("ORCH-4046")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("tasks_enqueued_total", name="tasks_enqueued"), "tasks_enqueued: counters, and only they"),
        (set_field(DEPTH, name="queue_depth_total"), "queue_depth_total: counters, and only they"),
        (set_field(DEPTH, buckets=[1]), "queue_depth: histograms, and only they, have buckets"),
        (set_field(FIRST, buckets=[]), "latency_first_token_ms: histograms, and only they"),
        (set_field(FIRST, buckets=[3, 2]), "latency_first_token_ms: its buckets do not rise"),
        (set_field(FIRST, unit="s"), "latency_first_token_ms: its name does not end in its unit"),
        (lambda content: content["metrics"].append(content["metrics"][0]), "tasks_enqueued_total: stands there twice"),
        (lambda content: content["metrics"].pop(), "metric_label_overflow_total: is missing"),
        (set_field(DEPTH, name="Queue-Depth"), "Queue-Depth: is no name"),
        (set_field(DEPTH, help="tasks"), "queue_depth: its help is no sentence"),
        (set_field(DEPTH, unit=""), "queue_depth: has no unit"),
        (set_field(DEPTH, since="soon"), "queue_depth: since 'soon' is no release"),
        (set_field(DEPTH, labels=["engine", "engine", "priority"]), "queue_depth: has a label twice"),
        (set_field(DEPTH, req=[]), "queue_depth: names no requirement"),
        (set_field(DEPTH, req=[f"ORCH-{9999}"]), f"queue_depth: names ORCH-{9999}, which specs/ does not have"),
        (set_field(DEPTH, values={}), "queue_depth: priority is a closed set in the code"),
        (set_field(DEPTH, values={"priority": ["batch"]}), "queue_depth: the code and the contract differ"),
        (set_field(DEPTH, values={"tenant": ["a"]}), "queue_depth: closes tenant, which is none of its labels"),
        (set_field(REJECTED, reserved={"reason": {"GONE": "x"}}), "tasks_rejected_total: reserves GONE"),
        (lambda content: content["budgets"].update(policy=2), "admission_backpressure_events_total: policy has 3 values"),
        (lambda content: content["budgets"].update(tenant=0), "label tenant: its budget is 0"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_in_the_contract_is_found(change: Change, message: str) -> None:
    """A contract that breaks its own rules does not pass."""
    content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
    change(content)
    faults = list(lint_contract(read_contract(json.dumps(content)), known_requirements()))
    assert any(fault.startswith(message) for fault in faults), faults


@pytest.mark.req("ORCH-4046")
def test_values_that_the_code_cannot_say_are_found() -> None:
    """Each set that the code closes is compared to the contract's: one value too many is named."""
    for name, label in CODE_SETS:
        content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
        of(content, name)["values"][label].append("invented")
        faults = list(lint_contract(read_contract(json.dumps(content))))
        assert f"{name}: the code and the contract differ in the values of {label}: invented" in faults


def everything(contract: Contract, without: str = "", label_without: str = "") -> str:
    """Scrape a registry into which every metric and every value that is not reserved was put, but for one."""
    registry = strict_registry(contract)
    for metric in contract.metrics:
        if metric.name == without:
            continue
        rows = [dict.fromkeys(metric.labels, "x")]
        for label, values in metric.values.items():
            usable = [v for v in values if v not in metric.reserved.get(label, {}) and v != label_without]
            rows = [row | {label: value} for row in rows for value in usable]
        told = [tuple(row[label] for label in metric.labels) for row in rows]
        for labels in told:
            if metric.type == "counter":
                registry.count(metric.name, labels, 1)
            elif metric.type == "histogram":
                registry.observe(metric.name, labels, 1)
        if metric.type == "gauge":
            registry.replace_gauge(metric.name, [(labels, 1) for labels in told])
    return registry.render().decode()


@pytest.mark.req("ORCH-4046")
@pytest.mark.parametrize("metric", CONTRACT.metrics, ids=lambda metric: metric.name)
def test_a_series_that_was_never_reported_is_found(metric: Any) -> None:
    """For each name: a scrape with all of them is complete, one without it is not."""
    assert list(lint_complete([everything(CONTRACT)], CONTRACT)) == []
    text = everything(CONTRACT, without=metric.name)
    assert list(lint_complete([text], CONTRACT)) == [f"{metric.name}: was never reported"]


@pytest.mark.req("ORCH-4046")
def test_a_value_that_was_never_reported_is_found_in_all_scrapes_together() -> None:
    """A reason that no scrape holds is named; in one of two scrapes it is enough."""
    text = everything(CONTRACT, label_without="wall_timeout")
    assert list(lint_complete([text], CONTRACT)) == ["tasks_canceled_total: reason 'wall_timeout' was never reported"]
    assert list(lint_complete([text, everything(CONTRACT)], CONTRACT)) == []
    odd = everything(CONTRACT).replace('reason="client"', 'reason="shutdown"')
    assert list(lint_complete([odd, everything(CONTRACT)], CONTRACT)) == [
        "tasks_canceled_total: reason 'shutdown' is said to be reserved, and was reported"
    ]


@pytest.mark.req("ORCH-4046")
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


@pytest.mark.req("ORCH-4262")
def test_the_command_reads_scrapes(tmp_path: Path) -> None:
    """Scrapes of a running daemon can be linted from files, and asked to be complete."""
    scrape, whole = tmp_path / "scrape", tmp_path / "whole"
    scrape.write_text(filled(strict_registry(CONTRACT)))
    whole.write_text(everything(CONTRACT))
    assert main(["--scrape", str(scrape)]) == 0
    assert main(["--complete", "--scrape", str(scrape)]) == 1
    assert main(["--complete", "--scrape", str(scrape), "--scrape", str(whole)]) == 0
    scrape.write_text(scrape.read_text().replace("queue_depth", "depth"))
    assert main(["--scrape", str(scrape)]) == 1
    assert main(["--contract", str(tmp_path / "none")]) == 1


@pytest.mark.req("ORCH-4259")
def test_a_label_without_a_budget_is_refused() -> None:
    """No label can grow without bound because somebody forgot its budget."""
    content = json.loads(CONTRACT_PATH.read_text(encoding="utf-8"))
    del content["budgets"]["reason"]
    with pytest.raises(msgspec.ValidationError, match="labels without a budget: reason"):
        read_contract(json.dumps(content))
