"""Starts the servers that are measured: our daemon, nginx, and the routers that `make bench-setup` installs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Harness
from benchmarks.machine import SERVER_CORE, cpu_s, pin_to, rss_bytes

PEERS_BIN = Path(__file__).resolve().parent.parent / ".venv-bench" / "bin"
READY_DEADLINE_S = 60.0

_NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                 proxy_read_timeout 3600s; }}
  }}
}}
"""
_DAEMON = """pools:
  - id: bench
    engine: llamacpp
    model: repo:bench/harness
    ctx: 1048576
    allow_cpu: true
    determinism: best_effort
    slots: {slots}
    launch: {{mode: external, allow_simulated: true, urls: [{urls}]}}
    queue: {{capacity: 400000}}
    admission: {{priorities: [{{name: interactive, queue_capacity: 400000}}, {{name: batch, queue_capacity: 400000}}]}}
    timeouts: {{wall_ms: 86400000, idle_ms: 86400000}}
server: {{limits: {{connections: 8192}}}}
journal: {{durability: {durability}}}
logging: {{level: {log_level}}}
"""


class Server:
    """One server under measurement; `path` and `accept` are how a stream is asked of it."""

    def __init__(self, name: str, process: subprocess.Popen[str], port: int, path: str, accept: str = "*/*") -> None:
        self.name = name
        self.process = process
        self.port = port
        self.path = path
        self.accept = accept

    def cpu_s(self) -> float:
        """Tell how much processor time its process tree has used."""
        return cpu_s(self.process.pid)

    def rss_bytes(self) -> int:
        """Tell how much memory its process tree holds."""
        return rss_bytes(self.process.pid)

    def stop(self) -> None:
        """End it, and whatever it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


def free_port() -> int:
    """Find a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Tell whether a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def await_ready(server: Server, path: str, log: Path) -> Server:
    """Wait until a server answers.

    Errors: RuntimeError when it ends or takes too long, with the end of its log.
    """
    deadline = time.monotonic() + READY_DEADLINE_S
    while not answers(f"http://127.0.0.1:{server.port}{path}"):
        if server.process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            raise RuntimeError(f"{server.name} did not come up:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
    return server


def _spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    piped: bool = False,
    pinned: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE if piped else file,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            preexec_fn=pin_to(SERVER_CORE) if pinned else None,  # noqa: PLW1509 - it makes one system call
        )


@contextmanager
def daemon(
    folder: Path,
    engine: Harness,
    *,
    slots: int = 256,
    replicas: int = 1,
    durability: str = "full",
    log_level: str = "warning",
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run our daemon over the harness's engine."""
    folder.mkdir(parents=True, exist_ok=True)
    urls = ", ".join(f"'http://127.0.0.{number + 1}:{engine.engine_port}'" for number in range(replicas))
    config = folder / "config.yaml"
    config.write_text(_DAEMON.format(slots=slots, urls=urls, durability=durability, log_level=log_level))
    command = [sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", "0"]
    command += ["--config", str(config), "--data-dir", str(folder / "data")]
    with own_daemon(command, folder, env=env) as server:
        yield server


@contextmanager
def own_daemon(
    command: Sequence[str | Path], folder: Path, *, pinned: bool = True, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run our daemon with a command line, and wait until it is ready."""
    process = _spawn(command, folder / "daemon.log", piped=True, pinned=pinned, env=env)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = next((word for word in line.split() if word.startswith("http://")), None)
    if url is None:
        process.kill()
        process.communicate()
        raise RuntimeError("the daemon did not start:\n" + (folder / "daemon.log").read_text()[-2000:])
    server = Server("orchqueue", process, int(url.rpartition(":")[2]), "/v1/tasks", "text/event-stream")
    try:
        yield await_ready(server, "/readyz", folder / "daemon.log")
    finally:
        server.stop()


@contextmanager
def nginx(folder: Path, engine: Harness) -> Iterator[Server | None]:
    """Run nginx as a plain pass-through; None where it is not installed."""
    binary = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if binary is None:
        print("  nginx is not installed and is left out (Debian, Ubuntu: apt install nginx)")
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, engine_port=engine.engine_port))
    process = _spawn([binary, "-p", folder, "-c", config], folder / "nginx.out")
    server = Server("nginx", process, port, "/completion")
    try:
        yield await_ready(server, "/health", folder / "nginx.out")
    finally:
        server.stop()


@contextmanager
def router(name: str, folder: Path, engine: Harness) -> Iterator[Server | None]:
    """Run one of the routers; None where it is not installed."""
    if not (PEERS_BIN / name).exists():
        print(f"  {name} is not installed and is left out (make bench-setup)")
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command: list[str | Path] = [PEERS_BIN / name, "launch"] if name == "sglang-router" else [PEERS_BIN / name]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--worker-urls",
        engine.engine_url,
        "--policy",
        "round_robin",
    ]
    command += ["--prometheus-port", str(free_port()), "--log-level", "warn" if name == "sglang-router" else "warning"]
    process = _spawn(command, folder / f"{name}.log")
    server = Server(name, process, port, "/v1/completions")
    try:
        yield await_ready(server, "/health", folder / f"{name}.log")
    finally:
        server.stop()
