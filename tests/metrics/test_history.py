"""After a scripted workload through a real daemon: every series was emitted, and every count is what clients saw happen."""

import math
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchqueue import __version__
from orchqueue.adapters.metrics import Metric, read_contract
from tests.metrics.conftest import Told
from tests.metrics.history import ENGINE
from tests.metrics.workload import GPU_BUSY_PERCENT, GPU_USED_MIB, SIMULATED
from tools.metrics_lint import CONTRACT_PATH, lint_scrape

CONTRACT = read_contract(CONTRACT_PATH.read_bytes())
LABELS = {metric.name: metric.labels for metric in CONTRACT.metrics}

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(300)]


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Read all series of a metric; of a histogram, how often each was observed."""
    wanted = name.removesuffix("_total")
    return {
        tuple(sample.labels[label] for label in LABELS[name]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == wanted and sample.name in (name, f"{name}_count")
    }


def series(text: str, metric: Metric, labels: tuple[str, ...]) -> dict[str, list[tuple[str, float]]]:
    """Read the parts of one histogram series: by suffix, the bucket's edge and the value."""
    found: dict[str, list[tuple[str, float]]] = {"_bucket": [], "_sum": [], "_count": []}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == metric.name else ():
            if tuple(sample.labels[label] for label in metric.labels) == labels:
                found[sample.name.removeprefix(metric.name)].append((sample.labels.get("le", ""), sample.value))
    return found


@pytest.mark.req("ORCH-4046")
def test_the_scrape_keeps_the_contract(told: Told) -> None:
    """Names, types, labels, values, buckets and budgets of the live scrape are those of the contract."""
    assert list(lint_scrape(told.scrape, CONTRACT)) == []


@pytest.mark.req(
    "ORCH-4046",
    "ORCH-4264",
    "ORCH-4265",
    "ORCH-4266",
    "ORCH-4267",
    "ORCH-4268",
    "ORCH-4269",
    "ORCH-4271",
    "ORCH-4274",
    "ORCH-4276",
    "ORCH-4366",
    "ORCH-4285",
)
@pytest.mark.parametrize(
    "name",
    [
        "tasks_enqueued_total", "tasks_started_total", "tasks_canceled_total", "tasks_failed_total",
        "tasks_rejected_total", "admission_backpressure_events_total", "tokens_in_total", "tokens_out_total",
        "latency_first_token_ms", "latency_decode_ms", "predicted_start_error_ms", "failovers_total", "replays_total",
    ],
)  # fmt: skip
def test_every_count_is_what_happened(told: Told, name: str) -> None:
    """For each label set the count is the one that follows from the clients' log; there is no series beside them."""
    expected = told.history.counters()[name]
    assert expected
    assert samples(told.scrape, name) == dict(expected)


@pytest.mark.req("ORCH-4046", "ORCH-4270")
def test_starts_and_restarts_of_replicas_are_what_happened(told: Told) -> None:
    """Each engine came up once, one was not there, one did not fit, one was killed; each of the last three waits for its restart."""
    came_up = {(ENGINE, pool, "ready"): 1 for pool in (*SIMULATED, "doomed", "real")}
    failed = {(ENGINE, "gone", "failed"): 1, (ENGINE, "huge", "out_of_memory"): 1}
    assert samples(told.scrape, "preload_outcomes_total") == came_up | failed
    restarts = {(ENGINE, pool, f"{pool}-0"): 1 for pool in ("doomed", "gone", "huge")}
    assert samples(told.scrape, "replica_restarts_total") == restarts


@pytest.mark.req("ORCH-4046", "ORCH-4285")
def test_every_accepted_task_is_accounted_for(told: Told) -> None:
    """What was accepted completed, failed, or was canceled by a client or its absence: nothing is counted twice or not at all."""
    ends = sum(samples(told.scrape, "tasks_failed_total").values())
    ends += sum(samples(told.scrape, "latency_decode_ms").values())
    canceled = samples(told.scrape, "tasks_canceled_total")
    ends += sum(count for labels, count in canceled.items() if labels[-1] in ("client", "disconnect"))
    assert ends == sum(samples(told.scrape, "tasks_enqueued_total").values()) == len(told.history.sent)


@pytest.mark.req("ORCH-4046")
def test_histograms_agree_with_themselves(told: Told) -> None:
    """Buckets rise to the count, and the sum lies between what the buckets allow."""
    for metric in CONTRACT.metrics:
        if metric.type != "histogram":
            continue
        for labels, count in samples(told.scrape, metric.name).items():
            parts = series(told.scrape, metric, labels)
            rows = [(float(edge), height) for edge, height in parts["_bucket"]]
            assert [edge for edge, _ in rows] == [*metric.buckets, math.inf]
            heights = [height for _, height in rows]
            assert heights == sorted(heights)
            assert heights[-1] == count
            ((_, total),) = parts["_sum"]
            steps = [after - before for before, after in zip([0.0, *heights], heights, strict=False)]
            edges = [0.0, *metric.buckets]
            assert total >= sum(edge * step for edge, step in zip(edges, steps, strict=True))


@pytest.mark.req("ORCH-4046", "ORCH-4263", "ORCH-4272", "ORCH-4273", "ORCH-4277", "ORCH-4286")
def test_gauges_show_what_others_show(told: Told) -> None:
    """Every gauge is compared to what the engine, the driver, the kernel or the control plane said."""
    text = told.scrape
    assert [seen.depth_scraped for seen in told.seen] == [seen.depth_told for seen in told.seen] == [1]
    assert set(samples(text, "queue_depth").values()) == {0}
    pool = (ENGINE, told.history.version_of["gpu"], "gpu")
    assert samples(text, "kv_cache_usage_ratio")[*pool, "gpu-0"] == pytest.approx(told.gpu_kv_ratio)
    assert told.gpu_kv_ratio > 0
    assert samples(text, "gpu_utilization") == {(*pool, "gpu-0", "cuda:0"): GPU_BUSY_PERCENT}
    assert samples(text, "vram_used_bytes") == {(*pool, "gpu-0", "cuda:0"): GPU_USED_MIB << 20}
    ((labels, resident),) = samples(text, "host_ram_used_bytes").items()
    assert labels == (ENGINE, told.history.version_of["real"], "real", "real-0")
    assert resident == pytest.approx(told.real_resident_bytes, rel=0.2)
    capacity = {labels[2:]: value for labels, value in samples(text, "queue_capacity").items()}
    pools = (*SIMULATED, "doomed", "gone", "real", "huge")
    one = ("narrow", "lru", "shed")
    assert capacity == {(pool, name): 1 if pool in one else 128 for pool in pools for name in ("interactive", "batch")}
    states = {labels[2]: labels[3] for labels, value in samples(text, "replicas").items() if value}
    assert states == dict.fromkeys((*SIMULATED, "real"), "ready") | dict.fromkeys(("doomed", "gone", "huge"), "backoff")
    assert samples(text, "build_info") == {(__version__,): 1}


@pytest.mark.req("ORCH-4046", "ORCH-4280")
def test_attainment_follows_from_the_histogram(told: Told) -> None:
    """The share of interactive tasks within the objective is what the histogram's bucket at 900 ms says."""
    line = re.compile(
        r'^latency_first_token_ms_bucket\{.*le="(900\.0|\+Inf)",.*priority="interactive"\} (\S+)$', re.MULTILINE
    )
    heights: dict[str, float] = {"900.0": 0.0, "+Inf": 0.0}
    for edge, height in line.findall(told.scrape):
        heights[edge] += float(height)
    assert heights["+Inf"] > 0
    ratio = samples(told.scrape, "slo_attainment_ratio")[("interactive", "first_token")]
    assert ratio == pytest.approx(heights["900.0"] / heights["+Inf"])
