"""How much later the first token comes through us than from the engine itself, the durable acceptance included."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Report, command, median
from benchmarks.harness import Harness
from benchmarks.relay import all_servers, body_for
from benchmarks.servers import daemon

STORY = "First-token latency of one request after another: engine directly, through us, nginx and Rust routers."


def measure(quick: bool) -> Report:
    """Alternate rounds over the engine itself and all servers; every request opens its own connection."""
    report = Report("first_token", quick)
    rounds, requests = (1, 50) if quick else (5, 400)
    with (
        tempfile.TemporaryDirectory() as name,
        Harness(Path(name)) as engine,
        all_servers(Path(name), engine) as servers,
        daemon(Path(name) / "undurable", engine, durability="memory") as undurable,
    ):
        undurable.name = "orchqueue, journal in memory"
        plain = engine.template("direct", "/completion", {"prompt": "@00000000"})
        ways = [("engine directly", engine.engine_port, plain)]
        for server in [*servers, undurable]:
            body = body_for(server, 1) if server is not undurable else body_for(servers[0], 1)
            template = engine.template(server.name.partition(",")[0], server.path, body, server.accept)
            ways.append((server.name, server.port, template))
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way, _, _ in ways}
        for number in range(rounds):
            turn = number % len(ways)
            for way, port, template in ways[turn:] + ways[:turn]:
                said = engine.load(port, template, 1, 1, requests)
                taken[way].append((float(said["first_p50_ms"]), float(said["first_p99_ms"])))
    for way, found in taken.items():
        report.add(f"{way}: p50", median([p50 for p50, _ in found]), "ms")
        report.add(f"{way}: p99", median([p99 for _, p99 in found]), "ms")
        report.detail[way] = [p50 for p50, _ in found]
    direct, ours = taken["engine directly"], taken["orchqueue"]
    report.add("added by orchqueue: p50", median([o[0] - d[0] for o, d in zip(ours, direct, strict=True)]), "ms")
    report.add("added by orchqueue: p99", median([o[1] - d[1] for o, d in zip(ours, direct, strict=True)]), "ms")
    return report


if __name__ == "__main__":
    command("first_token", STORY, measure)
