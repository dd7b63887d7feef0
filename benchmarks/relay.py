"""What relaying a token costs: our daemon, nginx and two routers over the same engine, in the same run.

Closed loop, one send() an event; servers on core 0, harness on core 1; processor time of the server's process tree between a tenth
and nine tenths of all tokens; rounds alternate between the servers, ratios are taken within a round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks.figures import Report, command, median
from benchmarks.harness import Harness, Said
from benchmarks.servers import Server, daemon, nginx, router

STREAMS = 64
STORY = "CPU µs and throughput per relayed token, and the latency a token gains, against nginx and Rust routers."
ROUTERS = ("vllm-router", "sglang-router")


class Round(msgspec.Struct):
    """One server's figures in one round."""

    cpu_us: float
    tokens_per_s: float
    paced_p50_us: float
    paced_p99_us: float


@contextmanager
def all_servers(folder: Path, engine: Harness) -> Iterator[list[Server]]:
    """Bring up everything that is installed, ours first."""
    with ExitStack() as stack:
        servers = [stack.enter_context(daemon(folder / "orchqueue", engine))]
        peers = [stack.enter_context(nginx(folder / "nginx", engine))]
        peers += [stack.enter_context(router(name, folder / name, engine)) for name in ROUTERS]
        yield servers + [peer for peer in peers if peer is not None]


def body_for(server: Server, tokens: int) -> dict[str, object]:
    """Build the request that makes a server stream."""
    body: dict[str, object] = {"prompt": "@00000000 why is the sky blue?", "max_tokens": tokens}
    if server.name == "orchqueue":
        return body | {"on_disconnect": "cancel"}
    return body | {"model": "m", "stream": True, "n_predict": tokens}


def closed_loop(engine: Harness, server: Server, tokens: int, total: int) -> tuple[float, float]:
    """Relay as fast as the server can.

    Units: processor µs a token, tokens a second.
    """
    seen: list[tuple[float, float, float]] = []

    def on_mark(said: Said) -> None:
        seen.append((server.cpu_s(), float(said["tokens"]), float(said["at_s"])))

    template = engine.template(server.name, server.path, body_for(server, tokens), server.accept)
    engine.load(server.port, template, STREAMS, tokens, total, on_mark=on_mark)
    (cpu_a, tokens_a, at_a), (cpu_b, tokens_b, at_b) = seen
    return (cpu_b - cpu_a) / (tokens_b - tokens_a) * 1e6, (tokens_b - tokens_a) / (at_b - at_a)


def paced(engine: Harness, port: int, template: Path, streams: int, tokens: int) -> tuple[float, float]:
    """Relay 50 tokens a second on every stream.

    Units: p50 and p99 in µs from the engine's send to the client's read.
    """
    said = engine.load(port, template, streams, tokens, streams, pace_us=20_000)
    return float(said["token_p50_us"]), float(said["token_p99_us"])


def one_round(engine: Harness, server: Server, quick: bool) -> Round:
    """Measure one server once."""
    tokens, streams, paced_tokens = (60, 16, 10) if quick else (2_000, 200, 150)
    cpu_us, rate = closed_loop(engine, server, tokens, STREAMS)
    template = engine.template(server.name, server.path, body_for(server, paced_tokens), server.accept)
    return Round(cpu_us, rate, *paced(engine, server.port, template, streams, paced_tokens))


def measure(quick: bool) -> Report:
    """Alternate rounds over all servers."""
    report = Report("relay", quick)
    rounds = 1 if quick else 5
    with (
        tempfile.TemporaryDirectory() as name,
        Harness(Path(name)) as engine,
        all_servers(Path(name), engine) as servers,
    ):
        taken: dict[str, list[Round]] = {server.name: [] for server in servers}
        direct: list[tuple[float, float]] = []
        for number in range(rounds):
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                taken[server.name].append(one_round(engine, server, quick))
            plain = engine.template("direct", "/completion", {"prompt": "@00000000"})
            direct.append(paced(engine, engine.engine_port, plain, 16 if quick else 200, 10 if quick else 150))
    report.add("direct: paced token p50", median([p50 for p50, _ in direct]), "µs")
    report.add("direct: paced token p99", median([p99 for _, p99 in direct]), "µs")
    for server_name, found in taken.items():
        report.add(f"{server_name}: CPU a token", median([r.cpu_us for r in found]), "µs")
        report.add(f"{server_name}: tokens a second on one core", median([r.tokens_per_s for r in found]), "1/s")
        report.add(f"{server_name}: paced token p50", median([r.paced_p50_us for r in found]), "µs")
        report.add(f"{server_name}: paced token p99", median([r.paced_p99_us for r in found]), "µs")
        report.detail[server_name] = [r.cpu_us for r in found]
    ours = taken["orchqueue"]
    for server_name, found in taken.items():
        if server_name != "orchqueue":
            ratios = [our.cpu_us / max(1e-9, its.cpu_us) for our, its in zip(ours, found, strict=True)]
            report.add(f"CPU a token, orchqueue over {server_name}", median(ratios), "×")
    return report


if __name__ == "__main__":
    command("relay", STORY, measure)
