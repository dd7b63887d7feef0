"""Real vLLM servers for tests, as `make engines-vllm` installs them: at most one for each index, up until the tests end."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
from contextlib import suppress
from functools import cache

import httpx

from tests.waiting import until
from tools.engine_vllm import MODEL, ROOT, VENV

CTX = 2048
UP_DEADLINE_S = 600.0
STOP_DEADLINE_S = 30.0
FLAGS = [
    "--served-model-name",
    "smollm2-135m-instruct",
    "--max-model-len",
    "2048",
    "--max-num-seqs",
    "1",
    "--no-enable-prefix-caching",
    "--enforce-eager",
    "--dtype",
    "bfloat16",
    "--generation-config",
    "vllm",
]
POOLING = ["--runner", "pooling", "--convert", "embed"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""One thread each: with more threads than free cores every step waits for the slowest, and is ten times slower."""
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def command(port: int) -> list[str]:
    """Write the command that starts one."""
    python, module = str(ROOT / VENV / "bin/python"), "vllm.entrypoints.openai.api_server"
    return [python, "-m", module, "--model", str(MODEL), "--host", "127.0.0.1", "--port", str(port), *FLAGS]


class RealVllm:
    """One server, a process group of its own: it starts an engine and that a model runner."""

    def __init__(self, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [*command(port), *more],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, **QUIET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until the model is loaded."""

        def ready() -> bool:
            assert self._process.poll() is None, f"vLLM ended with {self._process.poll()}: {' '.join(command(0))}"
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200
            return False

        until(ready, deadline_s=UP_DEADLINE_S, what="vLLM to be up")

    def stop(self) -> None:
        """End its whole group."""
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, ending)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_DEADLINE_S)


@cache
def server(index: int) -> RealVllm:
    """Give one of the servers, started when it is first asked for."""
    del index
    return _kept(RealVllm())


@cache
def pooling_server() -> RealVllm:
    """Give a server of vectors and ranks; the text model gives some, which is enough to see them come."""
    return _kept(RealVllm(*POOLING))


def _kept(started: RealVllm) -> RealVllm:
    atexit.register(started.stop)
    return started
