"""Hold the live registry, or a scrape of a running daemon, against ci/metrics.lint.json.

python -m tools.metrics_lint                    the contract itself and the registry that this tree builds
curl -s localhost:8080/metrics | python -m tools.metrics_lint --scrape -
python -m tools.metrics_lint --complete --scrape A --scrape B    together they must hold every series

Req: ORCH-4262
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from orchqueue.adapters.gauges import FIRST_TOKEN_SLO
from orchqueue.adapters.metrics import OVERFLOW_NAME, Contract, Metric, MetricsRegistry, read_contract
from orchqueue.core.outcome import CancelReason, ErrorCode
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.request import Priority
from orchqueue.core.settings import FullPolicy

ROOT = Path(__file__).resolve().parent.parent
CONTRACT_PATH = ROOT / "ci" / "metrics.lint.json"
REMEDY = "mend the code, or change ci/metrics.lint.json and run `make gen`"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RELEASE = re.compile(r"\d+\.\d+\.\d+")
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
_LARGEST = {"ratio": 1.0, "percent": 100.0, "info": 1.0}

CODE_SETS: dict[tuple[str, str], tuple[str, ...]] = {
    ("tasks_canceled_total", "reason"): get_args(CancelReason),
    ("tasks_rejected_total", "reason"): get_args(ErrorCode),
    ("tasks_failed_total", "reason"): get_args(ErrorCode),
    ("admission_backpressure_events_total", "policy"): get_args(FullPolicy),
    ("replicas", "state"): tuple(state.value for state in ReplicaState),
    ("slo_attainment_ratio", "slo"): (FIRST_TOKEN_SLO,),
}
"""What the code can say, for labels whose values the contract closes; every `priority` is `Priority`."""


def lint_contract(contract: Contract, known_ids: Iterable[str] | None = None) -> Iterator[str]:
    """Yield what is wrong with the contract itself; `known_ids` are the requirements that exist."""
    names = [metric.name for metric in contract.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: stands there twice"
    if OVERFLOW_NAME not in names:
        yield f"{OVERFLOW_NAME}: is missing, so nothing would tell of values over budget"
    for label, budget in contract.budgets.items():
        if budget < 1:
            yield f"label {label}: its budget is {budget}"
    known = None if known_ids is None else set(known_ids)
    for metric in contract.metrics:
        yield from _lint_form(metric)
        yield from _lint_values(metric, contract)
        if not metric.req:
            yield f'{metric.name}: names no requirement; add "req"'
        for name in metric.req if known is not None else ():
            if name not in (known or ()):
                yield f"{metric.name}: names {name}, which specs/ does not have"


def _lint_form(metric: Metric) -> Iterator[str]:
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
    if len(set(metric.labels)) != len(metric.labels):
        yield f"{metric.name}: has a label twice"
    if not metric.help.endswith("."):
        yield f"{metric.name}: its help is no sentence"
    if not metric.unit:
        yield f"{metric.name}: has no unit"
    if not _RELEASE.fullmatch(metric.since):
        yield f"{metric.name}: since {metric.since!r} is no release"


def _lint_values(metric: Metric, contract: Contract) -> Iterator[str]:
    for label, values in metric.values.items():
        if label not in metric.labels:
            yield f"{metric.name}: closes {label}, which is none of its labels"
            continue
        if len(values) > contract.budgets[label]:
            yield f"{metric.name}: {label} has {len(values)} values, its budget is {contract.budgets[label]}"
        said = CODE_SETS.get((metric.name, label), get_args(Priority) if label == "priority" else None)
        if said is not None and set(said) != set(values):
            differ = ", ".join(sorted(set(said) ^ set(values)))
            yield f"{metric.name}: the code and the contract differ in the values of {label}: {differ}"
    for label in metric.labels:
        if (label == "priority" or (metric.name, label) in CODE_SETS) and label not in metric.values:
            yield f"{metric.name}: {label} is a closed set in the code; name its values"
    for label, reasons in metric.reserved.items():
        for value in reasons.keys() - set(metric.values.get(label, ())):
            yield f"{metric.name}: reserves {value}, which is no value of {label}"


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
                if label not in metric.values:
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
    series: dict[frozenset[tuple[str, str]], set[float]] = defaultdict(set)
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix not in _SUFFIXES[metric.type]:
            yield f"{metric.name}: has the series {sample.name}"
            continue
        labels = {name: value for name, value in sample.labels.items() if not (suffix == "_bucket" and name == "le")}
        if set(labels) != set(metric.labels):
            yield f"{metric.name}: has the labels {sorted(labels)}, must have {sorted(metric.labels)}"
        for label, value in labels.items():
            if label in metric.values and value not in metric.values[label]:
                yield f"{metric.name}: {label} {value!r} is none of {', '.join(metric.values[label])}"
        yield from _lint_value(metric, sample.value)
        if suffix == "_bucket":
            series[frozenset(labels.items())].add(float(sample.labels["le"]))
    for buckets in series.values():
        if buckets != {*metric.buckets, math.inf}:
            yield f"{metric.name}: has the buckets {sorted(buckets)}"


def _lint_value(metric: Metric, value: float) -> Iterator[str]:
    if math.isnan(value) or value < 0 or (metric.type == "gauge" and value > _LARGEST.get(metric.unit, math.inf)):
        yield f"{metric.name}: has the value {value}"


def lint_complete(texts: Iterable[str], contract: Contract) -> Iterator[str]:
    """Yield what none of the scrapes holds: a counter or histogram that counted, a gauge, each value of a closed set."""
    expected = {_family_name(metric): metric for metric in contract.metrics}
    alive: dict[str, dict[str, set[str]]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            metric = expected.get(family.name)
            if metric is None:
                continue
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_sum")) or (metric.type != "gauge" and sample.value <= 0):
                    continue
                told = alive.setdefault(metric.name, defaultdict(set))
                for label, value in sample.labels.items():
                    told[label].add(value)
    for metric in contract.metrics:
        if metric.name not in alive:
            yield f"{metric.name}: was never reported"
            continue
        for label, values in metric.values.items():
            for value in values:
                is_seen, is_reserved = value in alive[metric.name][label], value in metric.reserved.get(label, {})
                if is_seen == is_reserved:
                    why = "is said to be reserved, and was reported" if is_seen else "was never reported"
                    yield f"{metric.name}: {label} {value!r} {why}"


def lint_registry(contract: Contract) -> Iterator[str]:
    """Yield where the registry that the daemon builds differs, after one value was put into every metric."""
    faults: list[str] = []
    packed = read_contract()
    registry = MetricsRegistry(packed, faults.append)
    for metric in packed.metrics:
        labels = tuple(_sample_value(metric, label) for label in metric.labels)
        match metric.type:
            case "counter":
                registry.count(metric.name, labels, 1)
            case "histogram":
                registry.observe(metric.name, labels, 1)
            case "gauge":
                registry.replace_gauge(metric.name, [(labels, 1)])
    yield from faults
    text = registry.render().decode()
    yield from lint_scrape(text, contract)
    # One value of each: which of a closed set are reached is for a workload to show.
    metrics = tuple(msgspec.structs.replace(metric, values={}) for metric in contract.metrics)
    yield from lint_complete([text], msgspec.structs.replace(contract, metrics=metrics))


def _sample_value(metric: Metric, label: str) -> str:
    taken = metric.reserved.get(label, {})
    return next((value for value in metric.values.get(label, ()) if value not in taken), "x")


def _family_name(metric: Metric) -> str:
    return metric.name.removesuffix("_total") if metric.type == "counter" else metric.name


def known_requirements() -> set[str]:
    """Read the ids that the specification has."""
    texts = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "specs").glob("*.md")))
    return {found for text in texts for found in re.findall(r"^#+ (ORCH-\d{4})\b(?!-DEPR)", text, re.MULTILINE)}


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Print every difference; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.metrics_lint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scrape", metavar="FILE", action="append", default=[], help="an exposition text; '-' for standard input"
    )
    parser.add_argument("--complete", action="store_true", help="every series must be in one of the scrapes")
    parser.add_argument("--contract", metavar="FILE", type=Path, default=CONTRACT_PATH)
    options = parser.parse_args(arguments)
    try:
        contract = read_contract(options.contract.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        print(f"{options.contract}: {error}", file=sys.stderr)
        return 1
    faults = list(lint_contract(contract, known_requirements()))
    texts = [_read(name) for name in options.scrape]
    if texts:
        faults += [fault for text in texts for fault in lint_scrape(text, contract)]
        faults += lint_complete(texts, contract) if options.complete else ()
    else:
        faults += lint_registry(contract)
    for fault in faults:
        print(f"metrics: {fault}; {REMEDY}", file=sys.stderr)
    print(f"metrics: {len(contract.metrics)} names, {len(faults)} differences")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
