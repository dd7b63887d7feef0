"""How many tasks a second are accepted, each 202 after its task is on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Report, command, median
from benchmarks.harness import Harness
from benchmarks.servers import daemon

STORY = "POST /v1/tasks a second with durable 202s, by concurrent connections; and without a durable journal."
SLOTS = 8


def body() -> dict[str, object]:
    """Build a task that waits: the slots are held by the first ones."""
    return {"prompt": "@00000000 why is the sky blue?", "max_tokens": 64, "priority": "batch"}


def measure(quick: bool) -> Report:
    """Alternate rounds over the two journals."""
    report = Report("admission", quick)
    rounds, sizes = (1, {1: 50, 64: 500}) if quick else (3, {1: 300, 8: 2_000, 64: 6_000, 256: 6_000})
    with (
        tempfile.TemporaryDirectory() as name,
        Harness(Path(name)) as engine,
        daemon(Path(name) / "full", engine, slots=SLOTS) as durable,
        daemon(Path(name) / "memory", engine, slots=SLOTS, durability="memory") as undurable,
    ):
        template = engine.template("task", "/v1/tasks", body())
        taken: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
        for number in range(rounds):
            pair = [("durable", durable), ("in memory", undurable)]
            for journal, server in pair if number % 2 == 0 else reversed(pair):
                for concurrency, total in sizes.items():
                    cpu_before_s = server.cpu_s()
                    said = engine.post(server.port, template, concurrency, total)
                    cpu_us = (server.cpu_s() - cpu_before_s) / total * 1e6
                    figures = (
                        total / float(said["elapsed_s"]),
                        float(said["first_p50_ms"]),
                        float(said["first_p99_ms"]),
                        cpu_us,
                    )
                    taken.setdefault((journal, concurrency), []).append(figures)
    for (journal, concurrency), found in taken.items():
        label = f"{journal}, {concurrency} at once"
        report.add(f"{label}: accepted a second", median([f[0] for f in found]), "1/s")
        report.add(f"{label}: answer p50", median([f[1] for f in found]), "ms")
        report.add(f"{label}: answer p99", median([f[2] for f in found]), "ms")
        report.add(f"{label}: CPU a task", median([f[3] for f in found]), "µs")
    return report


if __name__ == "__main__":
    command("admission", STORY, measure)
