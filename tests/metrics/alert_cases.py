"""For each alert: figures that make it fire, and figures just as lively that must not."""

from __future__ import annotations

from typing import NamedTuple

BY = 'instance="a:1"'
POOL = f'{BY},pool_id="p"'


class Firing(NamedTuple):
    """One alert that must fire: the labels it then has, and its value where its text tells it."""

    labels: dict[str, str]
    value: str = ""


class Case(NamedTuple):
    """Series and their values, one a minute in promtool's notation, looked at after `minutes`."""

    alert: str
    series: dict[str, str]
    minutes: int
    firing: tuple[Firing, ...] = ()


def first_tokens(in_time: str, all_of_them: str) -> dict[str, str]:
    """Write the two buckets that matter."""
    name, labels = "latency_first_token_ms", f'{POOL},priority="interactive"'
    return {
        f'{name}_bucket{{{labels},le="900.0"}}': in_time,
        f'{name}_bucket{{{labels},le="+Inf"}}': all_of_them,
        f"{name}_count{{{labels}}}": all_of_them,
    }


def start_errors(*heights: str) -> dict[str, str]:
    """Write the buckets 100, 3000, 5000 and all."""
    edges = ("100.0", "3000.0", "5000.0", "+Inf")
    series = (f'predicted_start_error_ms_bucket{{{POOL},priority="batch",le="{edge}"}}' for edge in edges)
    return dict(zip(series, heights, strict=True))


POOL_LABELS = {"instance": "a:1", "pool_id": "p"}
INSTANCE = {"instance": "a:1"}
REJECTED, ENQUEUED = f'tasks_rejected_total{{{BY},reason="%s"}}', f"tasks_enqueued_total{{{POOL}}}"
DEPTH, CAPACITY = f'queue_depth{{{POOL},priority="batch"}}', f'queue_capacity{{{POOL},priority="batch"}}'
READY, BROKEN = f'replicas{{{POOL},state="ready"}}', f'replicas{{{POOL},state="broken"}}'
DIVERGED = f'replays_total{{{POOL},outcome="diverged"}}'
REPLICA = f'{POOL},replica_id="p-0"'

CASES = (
    Case(
        "OrchQueueDown", {'up{job="orchqueue",instance="a:1"}': "1 0x9"}, 5, (Firing({"job": "orchqueue"} | INSTANCE),)
    ),
    Case("OrchQueueDown", {'up{job="orchqueue",instance="a:1"}': "1x4 0 1x9"}, 6),
    Case("OrchQueueDown", {'up{job="node",instance="a:1"}': "1x9"}, 5, (Firing({"job": "orchqueue"}),)),
    Case("OrchQueueNoReadyReplica", {READY: "1 0x9"}, 5, (Firing(POOL_LABELS),)),
    Case("OrchQueueNoReadyReplica", {READY: "1x9", READY.replace("ready", "broken"): "0x9"}, 5),
    Case("OrchQueueBreakerOpen", {BROKEN: "0 2x9"}, 5, (Firing(POOL_LABELS, "2"),)),
    Case("OrchQueueBreakerOpen", {BROKEN: "0x9", READY: "3x9"}, 5),
    Case("OrchQueueReplayDiverged", {DIVERGED: "0x9 1x9"}, 12, (Firing(POOL_LABELS),)),
    Case("OrchQueueReplayDiverged", {DIVERGED.replace("diverged", "caught_up"): "0+5x20", DIVERGED: "2x20"}, 16),
    Case(
        "OrchQueueRestartsOften",
        {f"replica_restarts_total{{{REPLICA}}}": "1+1x20"},
        16,
        (Firing(POOL_LABELS | {"replica_id": "p-0"}),),
    ),
    Case("OrchQueueRestartsOften", {f"replica_restarts_total{{{REPLICA}}}": "90 91x20"}, 16),
    Case(
        "OrchQueueOutOfMemory",
        {f'preload_outcomes_total{{{POOL},outcome="out_of_memory"}}': "1+1x20"},
        10,
        (Firing(POOL_LABELS),),
    ),
    Case(
        "OrchQueueOutOfMemory",
        {
            f'preload_outcomes_total{{{POOL},outcome="out_of_memory"}}': "4x20",
            f'preload_outcomes_total{{{POOL},outcome="failed"}}': "1+1x20",
        },
        10,
    ),
    Case(
        "OrchQueueNearCapacity",
        {DEPTH: "120x20", CAPACITY: "128x20"},
        10,
        (Firing(POOL_LABELS | {"priority": "batch"}, "93.75%"),),
    ),
    Case("OrchQueueNearCapacity", {DEPTH: "100x20", CAPACITY: "128x20"}, 10),
    Case(
        "OrchQueueRejectsMany",
        {REJECTED % "ADMISSION_REJECT": "0+20x40", ENQUEUED: "0+80x40"},
        30,
        (Firing(INSTANCE),),
    ),
    Case(
        "OrchQueueRejectsMany",
        {REJECTED % "ADMISSION_REJECT": "0+5x40", REJECTED % "INVALID_PARAMS": "0+90x40", ENQUEUED: "0+80x40"},
        30,
    ),
    Case("OrchQueueRefusesThoughReady", {REJECTED % "POOL_UNREADY": "0+3x40", READY: "1x40"}, 15, (Firing(INSTANCE),)),
    Case("OrchQueueRefusesThoughReady", {REJECTED % "POOL_UNREADY": "0+3x40", READY: "0x40"}, 15),
    Case("OrchQueueFirstTokenBurn", first_tokens("0+5x60", "0+10x60"), 45, (Firing(POOL_LABELS),)),
    Case("OrchQueueFirstTokenBurn", first_tokens("0+9x60", "0+10x60"), 45),
    Case("OrchQueueFirstTokenBurn", first_tokens("0+4x35 140+10x25", "0+10x60"), 45),
    Case(
        "OrchQueueSloMissed",
        {f'slo_attainment_ratio{{{BY},priority="interactive",slo="first_token"}}': "0.9x40"},
        20,
        (Firing(INSTANCE | {"priority": "interactive", "slo": "first_token"}),),
    ),
    Case(
        "OrchQueueSloMissed", {f'slo_attainment_ratio{{{BY},priority="interactive",slo="first_token"}}': "0.97x40"}, 20
    ),
    Case(
        "OrchQueueTasksFail",
        {f'tasks_failed_total{{{REPLICA},reason="WORKER_RESET"}}': "0+6x40", ENQUEUED: "0+100x40"},
        25,
        (Firing(POOL_LABELS),),
    ),
    Case(
        "OrchQueueTasksFail",
        {
            f'tasks_failed_total{{{REPLICA},reason="WORKER_RESET"}}': "0+4x40",
            f'tasks_failed_total{{{REPLICA},reason="ADMISSION_REJECT"}}': "0+60x40",
            ENQUEUED: "0+100x40",
        },
        25,
    ),
    Case("OrchQueuePredictionsOff", start_errors("0+5x60", "0+6x60", "0+10x60", "0+10x60"), 50, (Firing(POOL_LABELS),)),
    Case("OrchQueuePredictionsOff", start_errors("0+5x60", "0+10x60", "0+10x60", "0+10x60"), 50),
    Case(
        "OrchQueueKvPressure",
        {f"kv_cache_usage_ratio{{{REPLICA}}}": "0.99x40"},
        15,
        (Firing(POOL_LABELS | {"replica_id": "p-0"}),),
    ),
    Case("OrchQueueKvPressure", {f"kv_cache_usage_ratio{{{REPLICA}}}": "0.99x5 0.5 0.99x40"}, 15),
    Case(
        "OrchQueueLabelOverflow",
        {f'metric_label_overflow_total{{{BY},label="pool_id"}}': "5+1x40"},
        15,
        (Firing(INSTANCE | {"label": "pool_id"}),),
    ),
    Case("OrchQueueLabelOverflow", {f'metric_label_overflow_total{{{BY},label="pool_id"}}': "7x40"}, 15),
)
