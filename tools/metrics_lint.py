"""Hold the live registry, or a scrape of a running daemon, against ci/metrics.lint.json.

python -m tools.metrics_lint                    the registry that this tree builds
curl -s localhost:8080/metrics | python -m tools.metrics_lint --scrape -
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from orchqueue.adapters.metrics import Contract, Metric, MetricsRegistry, read_contract

CONTRACT_PATH = Path(__file__).resolve().parent.parent / "ci" / "metrics.lint.json"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def lint_contract(contract: Contract) -> Iterator[str]:
    """Yield what is wrong with the contract itself."""
    names = [metric.name for metric in contract.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: stands there twice"
    for metric in contract.metrics:
        if not _NAME.fullmatch(metric.name):
            yield f"{metric.name}: is no name of lower-case letters, digits and '_'"
        if (metric.type == "counter") != metric.name.endswith("_total"):
            yield f"{metric.name}: counters, and only they, end in _total"
        if (metric.type == "histogram") != bool(metric.buckets):
            yield f"{metric.name}: histograms, and only they, have buckets"
        if list(metric.buckets) != sorted(set(metric.buckets)):
            yield f"{metric.name}: its buckets do not rise"
        if metric.type == "histogram" and not metric.name.endswith(f"_{metric.unit}"):
            yield f"{metric.name}: its name does not end in its unit, {metric.unit}"


def lint_scrape(text: str, contract: Contract) -> Iterator[str]:
    """Yield where an exposition differs from the contract: names, types, labels, buckets, budgets, values."""
    expected = {_family_name(metric): metric for metric in contract.metrics}
    seen: set[str] = set()
    values: dict[str, set[str]] = defaultdict(set)
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        yield f"the scrape is no exposition text: {error}"
        return
    for family in families:
        metric = expected.get(family.name)
        if metric is None:
            yield f"{family.name}: is not in the contract"
            continue
        seen.add(family.name)
        yield from _lint_family(family, metric)
        for sample in family.samples:
            for label, value in sample.labels.items():
                values[label].add(value)
    for name in sorted(expected.keys() - seen):
        yield f"{name}: is in the contract and not in the scrape"
    for label, found in sorted(values.items()):
        budget = contract.budgets.get(label)
        count = len(found - {contract.overflow_value})
        if budget is not None and count > budget:
            yield f"label {label}: {count} values, its budget is {budget}"


def _lint_family(family: Family, metric: Metric) -> Iterator[str]:
    if family.type != metric.type:
        yield f"{metric.name}: is a {family.type}, must be a {metric.type}"
        return
    if family.documentation != metric.help:
        yield f"{metric.name}: its help text is not the contract's"
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix not in _SUFFIXES[metric.type]:
            yield f"{metric.name}: has the series {sample.name}"
            continue
        labels = set(sample.labels) - ({"le"} if suffix == "_bucket" else set())
        if labels != set(metric.labels):
            yield f"{metric.name}: has the labels {sorted(labels)}, must have {sorted(metric.labels)}"
        if math.isnan(sample.value) or (metric.type != "gauge" and sample.value < 0):
            yield f"{metric.name}: has the value {sample.value}"
    buckets = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
    if buckets and buckets != {*metric.buckets, math.inf}:
        yield f"{metric.name}: has the buckets {sorted(buckets)}"


def lint_registry(contract: Contract) -> Iterator[str]:
    """Yield where the registry that the daemon builds differs, after one value was put into every metric."""
    faults: list[str] = []
    packed = read_contract()
    registry = MetricsRegistry(packed, faults.append)
    for metric in packed.metrics:
        labels = tuple("x" for _ in metric.labels)
        match metric.type:
            case "counter":
                registry.count(metric.name, labels, 1)
            case "histogram":
                registry.observe(metric.name, labels, 1)
            case "gauge":
                registry.replace_gauge(metric.name, [(labels, 1)])
    yield from faults
    yield from lint_scrape(registry.render().decode(), contract)


def _family_name(metric: Metric) -> str:
    return metric.name.removesuffix("_total") if metric.type == "counter" else metric.name


def main(arguments: list[str] | None = None) -> int:
    """Print every difference; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.metrics_lint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scrape", metavar="FILE", help="an exposition text; '-' for standard input")
    parser.add_argument("--contract", metavar="FILE", type=Path, default=CONTRACT_PATH)
    options = parser.parse_args(arguments)
    try:
        contract = read_contract(options.contract.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        print(f"{options.contract}: {error}", file=sys.stderr)
        return 1
    faults = list(lint_contract(contract))
    if options.scrape is None:
        faults += lint_registry(contract)
    else:
        text = sys.stdin.read() if options.scrape == "-" else Path(options.scrape).read_text(encoding="utf-8")
        faults += lint_scrape(text, contract)
    for fault in faults:
        print(f"metrics: {fault}", file=sys.stderr)
    print(f"metrics: {len(contract.metrics)} names, {len(faults)} differences")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
