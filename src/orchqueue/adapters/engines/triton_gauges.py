"""What TensorRT-LLM's gauges on Triton's metrics port tell, without I/O.

Req: ORCH-4213, ORCH-4273
"""

from __future__ import annotations

import re

import msgspec

_REQUESTS = b"nv_trt_llm_request_metrics{"
_BLOCKS = b"nv_trt_llm_kv_cache_block_metrics{"
_LABEL = re.compile(rb'(\w+)="([^"]*)"')


class Gauges(msgspec.Struct, frozen=True):
    """How much the models work. `active`: requests that wait or run. `kv_usage_ratio` None: not told."""

    active: int
    kv_usage_ratio: float | None


def read_gauges(text: bytes, models: frozenset[str]) -> Gauges | None:
    """Read the gauges of some models, of all where these have none; None where nothing tells what is active.

    Cost: one look at each line.

    >>> line = b'nv_trt_llm_request_metrics{model="m",request_type="active",version="1"} 2'
    >>> read_gauges(line, frozenset({"m"})).active
    2
    """
    found: dict[str, dict[str, float]] = {}
    for line in text.split(b"\n"):
        if not line.startswith((_REQUESTS, _BLOCKS)):
            continue
        labels = {name.decode(): value.decode("utf-8", "replace") for name, value in _LABEL.findall(line)}
        kind = labels.get("request_type") or labels.get("kv_cache_block_type", "")
        try:
            found.setdefault(labels.get("model", ""), {})[kind] = float(line.rpartition(b" ")[2])
        except ValueError:
            continue
    chosen = [figures for model, figures in found.items() if model in models] or list(found.values())
    active = [figures["active"] for figures in chosen if "active" in figures]
    if not active:
        return None
    return Gauges(int(sum(active)), _kv_usage(chosen))


def _kv_usage(chosen: list[dict[str, float]]) -> float | None:
    ratios = []
    for figures in chosen:
        if "fraction" in figures:
            ratios.append(figures["fraction"])
        elif figures.get("max") and "used" in figures:
            ratios.append(figures["used"] / figures["max"])
    return min(1.0, max(ratios)) if ratios else None
