"""What /metrics says of the tokens that a pool wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"tokens_out_total(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\S+)?\s*")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def tokens_out(metrics: str, labels: Mapping[str, str]) -> float:
    r"""Add up `tokens_out_total` over the series that carry all of these labels; 0 where there is none.

    >>> tokens_out('tokens_out_total{pool_id="a",replica_id="a-0"} 7.0\n', {"pool_id": "a"})
    7.0
    """
    total = 0.0
    for line in metrics.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None and labels.items() <= _labels(sample["labels"] or "").items():
            total += float(sample["value"])
    return total


def _labels(text: str) -> dict[str, str]:
    return {
        name: re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match.group()], value) for name, value in _LABEL.findall(text)
    }
