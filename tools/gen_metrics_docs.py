"""The metrics reference for people, from ci/metrics.lint.json and the shipped alert rules.

Req: ORCH-4046, ORCH-4049
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from orchqueue.adapters.metrics import Contract, Metric, read_contract

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "metrics.md"
CONTRACT_PATH = ROOT / "ci" / "metrics.lint.json"
ALERTS_PATH = ROOT / "deploy" / "prometheus" / "alerts.yml"

_INTRODUCTION = """\
# Metrics

<!-- Generated from ci/metrics.lint.json and deploy/prometheus/alerts.yml by `make gen`; do not edit. -->

`GET /metrics` answers in the Prometheus text format. Names, types, labels and buckets are a contract: what stands here stays, new
metrics may come beside it. What each must mean: [specs/metrics.md](../specs/metrics.md).

```console
$ curl -s localhost:8080/metrics
```

Where the daemon asks for keys, a scrape needs one with the scope `control` (`orchestratord keys create`). An example
configuration for Prometheus is [deploy/prometheus/prometheus.yml](../deploy/prometheus/prometheus.yml). Counters begin at 0
with each start of the daemon; tasks that it takes over from an earlier life are not counted as enqueued again. What never reaches
admission (a request that is no valid task, that lacks a key, or that is beyond the limits of the connection) is not in
`tasks_rejected_total`. An accepted task that could not be made durable counts as enqueued and as failed.

Any scrape can be held against the contract:

```console
$ curl -s localhost:8080/metrics | .venv/bin/python -m tools.metrics_lint --scrape -
```
"""

_BUDGETS = """\
## Label budgets

A label has at most so many values in one life of the daemon. What comes later is reported as `{other}` and counted in
`metric_label_overflow_total`, so that no client, engine or configuration can fill a Prometheus; of gauges that become `{other}`
amounts are added up and of shares the largest is shown. `tenant` has a budget and is no label of any metric yet.
"""

_ALERTS = """\
## Alerts

[deploy/prometheus/alerts.yml](../deploy/prometheus/alerts.yml) has them with their expressions; each says in its annotations
what to do. They rely on the scrape job's name, `orchqueue`. Check your own version with `promtool check rules alerts.yml`.
"""


def generate() -> Mapping[Path, str]:
    """Write the reference.

    Shape: {path: text}.
    """
    contract = read_contract(CONTRACT_PATH.read_bytes())
    sections = (
        [_INTRODUCTION.rstrip()],
        *(_kind(contract, kind, title) for kind, title in _KINDS.items()),
        ["## Values", "", *_values(contract)],
        [_BUDGETS.format(other=contract.overflow_value).rstrip(), "", *_budgets(contract)],
        [_ALERTS.rstrip(), "", *_alerts()],
    )
    return {PATH: "\n\n".join("\n".join(section) for section in sections) + "\n"}


_KINDS = {"counter": "Counters", "gauge": "Gauges", "histogram": "Histograms"}


def _kind(contract: Contract, kind: str, title: str) -> list[str]:
    metrics = [metric for metric in contract.metrics if metric.type == kind]
    head = ("Name", "Type", "Unit", "Labels", "Meaning", "Since")
    lines = [f"## {title}", "", *_table(head, (_row(metric) for metric in metrics))]
    with_buckets = [metric for metric in metrics if metric.buckets]
    if with_buckets:
        lines += ["", *_table(("Name", "Buckets"), ((f"`{m.name}`", _edges(m)) for m in with_buckets))]
    return lines


def _row(metric: Metric) -> Sequence[str]:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    return f"`{metric.name}`", metric.type, metric.unit, labels, metric.help, metric.since


def _edges(metric: Metric) -> str:
    return f"{', '.join(f'{edge:g}' for edge in metric.buckets)} {metric.unit}"


def _values(contract: Contract) -> Iterator[str]:
    """List the closed sets once for each set of metrics that share one."""
    users: dict[tuple[str, tuple[str, ...]], list[Metric]] = {}
    for metric in contract.metrics:
        for label, values in metric.values.items():
            users.setdefault((label, values), []).append(metric)
    rows = (
        (f"`{label}`", ", ".join(f"`{metric.name}`" for metric in metrics), ", ".join(f"`{value}`" for value in values))
        for (label, values), metrics in users.items()
    )
    yield "These labels have closed sets of values:"
    yield ""
    yield from _table(("Label", "In", "Values"), rows)
    yield ""
    yield "Some of these values are not seen in ordinary operation:"
    yield ""
    reserved = (
        (f"`{metric.name}`", f"`{label}`", f"`{value}`", why)
        for metric in contract.metrics
        for label, reasons in metric.reserved.items()
        for value, why in reasons.items()
    )
    yield from _table(("Metric", "Label", "Value", "Why"), reserved)


def _budgets(contract: Contract) -> list[str]:
    rows = (
        (f"`{label}`", str(budget), str(sum(label in metric.labels for metric in contract.metrics)))
        for label, budget in contract.budgets.items()
    )
    return _table(("Label", "Values at most", "Metrics that have it"), rows)


def _alerts() -> list[str]:
    document = YAML(typ="safe", pure=True).load(ALERTS_PATH.read_text(encoding="utf-8"))
    rules: list[dict[str, Any]] = [rule for group in document["groups"] for rule in group["rules"]]
    rows = (
        (
            f"`{rule['alert']}`",
            rule["labels"]["severity"],
            _plain(rule["annotations"]["summary"]),
            _plain(rule["annotations"]["action"]),
        )
        for rule in rules
    )
    return _table(("Alert", "Severity", "What is wrong", "What to do"), rows)


def _plain(text: str) -> str:
    """Write an annotation's template for readers: a label shows as its name."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
