"""Run the real tritonserver in front of a llama.cpp server: `python -m tools.triton_serve --http-port 8000`, until Ctrl-C.

Its models are `tensorrt_llm_bls` and `ensemble`; see `tools.triton_repository`. Everything listens on the loopback address, and what
was started ends with the command.

Req: ORCH-4460
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchqueue.adapters.engines.llamacpp_server import SETTINGS_VARIABLE, ServerSettings
from orchqueue.adapters.models import find_bundled
from orchqueue.adapters.processes.launcher import READY_VARIABLE
from tools.triton_install import SERVER, environment, installed
from tools.triton_repository import BLS, ENSEMBLE, write_repository

KEY_VARIABLE = "ORCHQUEUE_TRITON_UPSTREAM_KEY"
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
"""Becomes another program that the kernel asks to end when its parent is gone, however that came."""
BUNDLED = "smollm2-135m-instruct-q4_1"
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 8.0
POLL_S = 0.05


class TritonError(RuntimeError):
    """Something did not start."""


@dataclass(frozen=True)
class StackSettings:
    """What is run. A port of 0: the system chooses."""

    http_port: int = 0
    metrics_port: int = 0
    ctx: int = 2048
    slots: int = 1
    threads: int = 1
    accumulate_tokens: bool = False


@dataclass
class Stack:
    """A running tritonserver and the llama.cpp server behind it."""

    url: str
    metrics_url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def model_url(self, model: str) -> str:
        """Give the URL of a model, as the `urls` of a pool have it."""
        return f"{self.url}/v2/models/{model}?metrics_port={self.metrics_url.rpartition(':')[2]}"


@contextmanager
def running(settings: StackSettings, folder: Path) -> Iterator[Stack]:
    """Run both servers; logs and the model repository go into the folder.

    Errors: TritonError with the end of the log of what did not start.
    """
    if not installed():
        raise TritonError("the real tritonserver is not installed: make engines-triton")
    ports = free_ports(2)
    http_port, metrics_port = settings.http_port or ports[0], settings.metrics_port or ports[1]
    with ExitStack() as stack:
        key = secrets.token_hex(16)
        llamacpp, port = start_llamacpp(settings, key, folder)
        stack.callback(stop, llamacpp)
        upstream = f"http://127.0.0.1:{port}"
        write_repository(
            folder / "models",
            upstream,
            kv_tokens=settings.ctx * settings.slots,
            accumulate_tokens=settings.accumulate_tokens,
        )
        triton = start_triton(folder, key, http_port, metrics_port)
        stack.callback(stop, triton)
        base = f"http://127.0.0.1:{http_port}"
        wait_ready(base, triton, folder / "triton.log")
        yield Stack(base, f"http://127.0.0.1:{metrics_port}", {"triton": triton, "llamacpp": llamacpp})


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on; tritonserver cannot be asked which one it was given."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def start_llamacpp(settings: StackSettings, key: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the bundled model as the product's own replicas do: strict, so one thing at a time for each slot.

    Errors: TritonError.
    """
    path, _ = find_bundled(BUNDLED)
    server = ServerSettings(
        str(path), key, settings.ctx, settings.slots, threads=settings.threads, n_batch=512, n_ubatch=512
    )
    reading, writing = os.pipe()
    log = folder / "llamacpp.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", TIED, sys.executable, "-m", "orchqueue.adapters.engines.llamacpp_server"],
            env={**os.environ, SETTINGS_VARIABLE: json.dumps(_plain(server)), READY_VARIABLE: str(writing)},
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    with open(reading) as ready:
        line = ready.readline()
    if not line:
        stop(process)
        raise TritonError(f"llama.cpp did not start:\n{tail(log)}")
    return process, int(line)


def _plain(server: ServerSettings) -> Mapping[str, object]:
    return {name: getattr(server, name) for name in server.__struct_fields__}


def start_triton(folder: Path, key: str, http_port: int, metrics_port: int) -> subprocess.Popen[bytes]:
    """Start tritonserver on the folder's repository, models loaded by name so that they can be unloaded and loaded again."""
    command = [
        *(sys.executable, "-E", "-c", TIED),
        str(SERVER / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={SERVER / 'backends'}",
        "--model-control-mode=explicit",
        f"--load-model={BLS}",
        f"--load-model={ENSEMBLE}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-grpc=false",
        "--exit-timeout-secs=3",
    ]
    with (folder / "triton.log").open("wb") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment(), KEY_VARIABLE: key},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until this server, and no other that has its port, says that it is ready.

    Errors: TritonError.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if b"Started Metrics Service" in log.read_bytes():
            with suppress(OSError), urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        time.sleep(POLL_S)
    raise TritonError(f"tritonserver did not get ready:\n{tail(log)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: asked first, killed after the grace."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """Give the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the real tritonserver in front of a llama.cpp server.")
    defaults = StackSettings()
    for name in ("http_port", "metrics_port", "ctx", "slots", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--accumulate-tokens", action="store_true", help="each response holds all text so far")
    settings = StackSettings(**vars(parser.parse_args(argv)))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="orchqueue-triton-") as folder:
        try:
            with running(settings, Path(folder)) as stack:
                print(f"tritonserver at {stack.model_url(BLS)}; Ctrl-C ends it", flush=True)
                threading.Event().wait()
        except TritonError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
