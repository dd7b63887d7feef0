"""The metrics contract, and the one registry that is built from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Literal, TypeAlias, TypeVar

import msgspec
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Labels: TypeAlias = tuple[str, ...]
Family: TypeAlias = Counter | Gauge | Histogram

F = TypeVar("F", Counter, Gauge, Histogram)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
OVERFLOW_NAME = "metric_label_overflow_total"
SHARES = ("ratio", "percent", "info")


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One name of the contract; its labels in the order in which values are given.

    `values`: labels whose values are a closed set. `reserved`: those of them that no ordinary operation leads to, and why.
    `since`: the release that brought it. `req`: the requirements that it serves.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    since: str
    req: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    values: Mapping[str, tuple[str, ...]] = {}
    reserved: Mapping[str, Mapping[str, str]] = {}


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every name, and how many values each label may have.

    Req: ORCH-4294
    """

    budgets: Mapping[str, int]
    overflow_value: str
    metrics: tuple[Metric, ...]


def read_contract(text: str | bytes | None = None) -> Contract:
    """Read the contract that is packed with the program, or the text given.

    Errors: msgspec.ValidationError when it is none.
    Req: ORCH-4046, ORCH-4262, ORCH-4275
    """
    if text is None:
        text = resources.files("orchqueue.adapters").joinpath("metrics_contract.json").read_bytes()
    contract = msgspec.json.decode(text, type=Contract)
    unbudgeted = {label for metric in contract.metrics for label in metric.labels} - set(contract.budgets)
    if unbudgeted:
        raise msgspec.ValidationError(f"labels without a budget: {', '.join(sorted(unbudgeted))}")
    return contract


class MetricsRegistry:
    """Counters, histograms and gauges by the contract's names; nothing else can be reported.

    Label values beyond their budget or outside of their closed set become `other` and are counted. What does not fit the
    contract is told through `on_fault`, once for each name, and dropped: figures must never stop the work.

    Cost: a counter costs one dictionary lookup and one addition once its labels were seen.
    Req: ORCH-4258, ORCH-4259, ORCH-4260
    """

    def __init__(self, contract: Contract, on_fault: Callable[[str], None]) -> None:
        # The `_created` series would double the scrape and are no part of the contract.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._contract = contract
        self._on_fault = on_fault
        self._metrics = {metric.name: metric for metric in contract.metrics}
        self._families = {metric.name: _family(metric, self.registry) for metric in contract.metrics}
        self._counters: dict[tuple[str, Labels], Counter] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._seen: dict[str, set[str]] = {label: set() for label in contract.budgets}
        self._faulty: set[str] = set()
        self._lock = threading.Lock()

    def count(self, name: str, labels: Labels, amount: int) -> None:
        """Add to a counter."""
        child = self._counters.get((name, labels)) or self._child(name, labels, Counter, self._counters)
        if child is not None:
            child.inc(amount)

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Put a value into a histogram."""
        child = self._histograms.get((name, labels)) or self._child(name, labels, Histogram, self._histograms)
        if child is not None:
            child.observe(value)

    def replace_gauge(self, name: str, values: Iterable[tuple[Labels, float]]) -> None:
        """Make these the gauge's only series: what is gone from the world is gone from the scrape.

        Req: ORCH-4261
        """
        family = self._families.get(name)
        if not isinstance(family, Gauge):
            self._fault(name, "it is no gauge of the contract")
            return
        metric = self._metrics[name]
        if metric.labels:
            family.clear()
        folded: dict[Labels, float] = {}
        for labels, value in values:
            if len(labels) != len(metric.labels):
                self._fault(name, f"it has the labels {', '.join(metric.labels)}, got {len(labels)} values")
                continue
            told = self._tell(metric, labels)
            # Where several become `other`, amounts add up and shares do not.
            before = folded.get(told, 0.0)
            folded[told] = max(before, value) if metric.unit in SHARES else before + value
        for told, value in folded.items():
            (family.labels(*told) if told else family).set(value)

    def render(self) -> bytes:
        """Write the exposition text. Safe in any thread.

        Cost: 24 ms for 3 600 lines; keep it off the event loop.
        Req: ORCH-4024
        """
        return prometheus_client.generate_latest(self.registry)

    def _child(self, name: str, labels: Labels, kind: type[F], cache: dict[tuple[str, Labels], F]) -> F | None:
        """Find the series. Labels over budget are not cached: a flood of values must not fill the memory."""
        metric, family = self._metrics.get(name), self._families.get(name)
        if metric is None or not isinstance(family, kind):
            self._fault(name, f"it is no {kind.__name__.lower()} of the contract")
            return None
        if len(labels) != len(metric.labels):
            self._fault(name, f"it has the labels {', '.join(metric.labels)}, got {len(labels)} values")
            return None
        if not labels:
            return family
        told = self._tell(metric, labels)
        child = family.labels(*told)
        if told == labels:
            cache[name, labels] = child
        return child

    def _tell(self, metric: Metric, labels: Labels) -> Labels:
        return tuple(self._within_budget(metric, *pair) for pair in zip(metric.labels, labels, strict=True))

    def _within_budget(self, metric: Metric, label: str, value: str) -> str:
        closed = metric.values.get(label)
        if closed is not None and value in closed:
            return value
        with self._lock:
            seen = self._seen[label]
            if value in seen and closed is None:
                return value
            if len(seen) < self._contract.budgets[label] and closed is None:
                seen.add(value)
                return value
        overflow = self._families[OVERFLOW_NAME]
        assert isinstance(overflow, Counter)
        overflow.labels(label).inc()
        return self._contract.overflow_value

    def _fault(self, name: str, detail: str) -> None:
        if name not in self._faulty:
            self._faulty.add(name)
            self._on_fault(f"the metric {name} cannot be reported: {detail}")


def _family(metric: Metric, registry: CollectorRegistry) -> Family:
    match metric.type:
        case "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
