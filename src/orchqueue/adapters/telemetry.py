"""The telemetry port: metrics by their contract, log lines in JSON or text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from orchqueue import __version__
from orchqueue.adapters.gauges import set_gauges
from orchqueue.adapters.log_lines import json_line, text_line
from orchqueue.adapters.log_sink import LogSink
from orchqueue.adapters.metrics import CONTENT_TYPE, MetricsRegistry, read_contract
from orchqueue.core.snapshots import PoolPicture
from orchqueue.ports.clock import Clock
from orchqueue.ports.telemetry import LogValue

Level = Literal["info", "warning", "error"]
LogFormat = Literal["json", "text"]

STDERR = 2

_RANKS: dict[str, int] = {"info": 0, "warning": 1, "error": 2}

__all__ = ["CONTENT_TYPE", "MetricsTelemetry"]


class MetricsTelemetry:
    """Owns every metric's name and every log line's form.

    Req: ORCH-4037
    """

    def __init__(
        self, clock: Clock, level: Level = "info", log_format: LogFormat = "json", descriptor: int = STDERR
    ) -> None:
        self._clock = clock
        self._level = _RANKS[level]
        self._line: Callable[[int, str, str, Mapping[str, LogValue]], bytes] = (
            json_line if log_format == "json" else text_line
        )
        self._sink = LogSink(descriptor)
        self._rendering = threading.Lock()
        self.metrics = MetricsRegistry(read_contract(), self._on_fault)
        self.metrics.replace_gauge("build_info", [((__version__,), 1.0)])
        self.count = self.metrics.count
        self.observe = self.metrics.observe

    def log(self, level: Level, event: str, fields: Mapping[str, LogValue]) -> None:
        """Write one structured line; never raises, never waits for whoever reads it."""
        if _RANKS[level] < self._level:
            return
        try:
            line = self._line(self._clock.now_ms(), level, event, fields)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            line = self._line(self._clock.now_ms(), "error", "log_line_unwritable", {"detail": f"{event}: {error!r}"})
        self._sink.write(line)

    def render(self, pools: Sequence[PoolPicture]) -> bytes:
        """Bring the gauges up to date and write the exposition text.

        Cost: milliseconds; call it in a thread, with pictures that were taken on the loop.
        """
        with self._rendering:
            set_gauges(self.metrics, pools)
            return self.metrics.render()

    @property
    def dropped_lines(self) -> int:
        """Count the log lines that nobody took."""
        return self._sink.dropped_lines

    def close(self) -> None:
        """Write what is still queued."""
        self._sink.close()

    def _on_fault(self, message: str) -> None:
        self.log("error", "metric_unknown", {"detail": message})
