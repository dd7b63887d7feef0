"""What a waiting task and an open stream cost the daemon in resident memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.admission import body
from benchmarks.figures import Report, command
from benchmarks.harness import Harness
from benchmarks.relay import body_for
from benchmarks.servers import daemon

STORY = "Resident bytes of the daemon per waiting task (100 000 of them) and per open stream (1 000 of them)."


def waiting(report: Report, tasks: int) -> None:
    """Let many tasks wait."""
    with (
        tempfile.TemporaryDirectory() as name,
        Harness(Path(name)) as engine,
        daemon(Path(name) / "d", engine, slots=8) as server,
    ):
        template = engine.template("task", "/v1/tasks", body())
        engine.post(server.port, template, 64, max(100, tasks // 100))
        before = server.rss_bytes()
        said = engine.post(server.port, template, 64, tasks)
        grown = server.rss_bytes() - before
        report.add("daemon at rest", before / 2**20, "MiB")
        report.add(f"waiting task, {tasks} of them", grown / tasks, "bytes")
        report.add(f"accepted a second on the way to {tasks}", tasks / float(said["elapsed_s"]), "1/s")
        said = engine.post(server.port, template, 1, 100)
        report.add(f"answer p50, one at a time, {tasks} waiting", float(said["first_p50_ms"]), "ms")
        report.add(f"answer p99, one at a time, {tasks} waiting", float(said["first_p99_ms"]), "ms")


def streams(report: Report, count: int) -> None:
    """Keep many streams open, each with a running task and one reader."""
    with (
        tempfile.TemporaryDirectory() as name,
        Harness(Path(name)) as engine,
        daemon(Path(name) / "d", engine, slots=256, replicas=-(-count // 256)) as server,
    ):
        template = engine.template("stream", server.path, body_for(server, 64), server.accept)
        engine.load(server.port, template, 8, 4, 64)
        before = server.rss_bytes()
        engine.open(server.port, template, count)
        report.add(f"open stream, {count} of them", (server.rss_bytes() - before) / count, "bytes")
        report.add(f"daemon with {count} open streams", server.rss_bytes() / 2**20, "MiB")
        engine.close_clients()


def measure(quick: bool) -> Report:
    """Weigh both."""
    report = Report("memory", quick)
    waiting(report, 1_000 if quick else 100_000)
    streams(report, 50 if quick else 1_000)
    return report


if __name__ == "__main__":
    command("memory", STORY, measure)
