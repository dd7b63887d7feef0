"""A real daemon in front of simulated engines, each an HTTP server in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.daemon import PATIENCE_S, Daemon, running


class SimulatedEngine:
    """The process of a simulated engine; what it does wrong is said to it over its own protocol."""

    def __init__(self, *options: str, engine: str = "llamacpp", port: int = 0) -> None:
        command = [sys.executable, "-m", "orchqueue_sim.main", "engine", engine, "--port", str(port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def set_faults(self, **faults: object) -> None:
        """Replace what goes wrong; none named: nothing."""
        # Without certificates, which take a tenth of a second to read and have no part in plain HTTP.
        httpx.post(f"{self.url}/sim/faults", json=faults, timeout=PATIENCE_S, verify=False).raise_for_status()

    def freeze(self) -> None:
        """Stop the clock for it: no text ends before it is thawed. Kept so for a quarter of a minute it counts as lost."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it, as an engine that crashes goes."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def simulated_engine(*options: str) -> Iterator[SimulatedEngine]:
    """Run a simulated engine for a while."""
    engine = SimulatedEngine(*options)
    try:
        yield engine
    finally:
        engine.end()


def pool_text(*engines: SimulatedEngine, pool_id: str = "sim", more: str = "") -> str:
    """Write the configuration of one pool over these engines; `more` is further YAML of the pool, indented by four."""
    urls = ", ".join(f"'{engine.url}'" for engine in engines)
    return (
        f"  - id: {pool_id}\n    engine: llamacpp\n    model: repo:test/sim\n    ctx: 2048\n"
        f"    launch: {{mode: external, urls: [{urls}], allow_simulated: true}}\n{more}"
    )


@contextmanager
def serving(directory: Path, rest: str = "", *options: str, pool_id: str = "sim", more: str = "") -> Iterator[Daemon]:
    """Serve one simulated engine behind the real adapter; `rest` is top-level YAML, `options` are the engine's."""
    with simulated_engine(*options) as engine:
        config = directory / "orchqueue.yaml"
        config.write_text("pools:\n" + pool_text(engine, pool_id=pool_id, more=more) + rest)
        with running(directory / "data", config) as daemon:
            daemon.wait_ready()
            yield daemon
