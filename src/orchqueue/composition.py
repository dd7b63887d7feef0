"""Puts the daemon together and takes it apart: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from orchqueue import __version__
from orchqueue.adapters.decision_file import DecisionFile
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.journals.memory import MemoryJournal
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.keys import KeyRing, KeyStore
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.external import ExternalHost
from orchqueue.adapters.processes.host import LlamacppSpawnHost
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.adapters.processes.llamacpp_launch import SpawnSettings
from orchqueue.adapters.system import DataDirectory, SystemClock
from orchqueue.adapters.telemetry import MetricsTelemetry
from orchqueue.config.changes import merge
from orchqueue.config.problems import ConfigError
from orchqueue.config.settings import is_strict, replica_ids, to_settings
from orchqueue.config.types import Config, Pool
from orchqueue.core.events import AnyEvent
from orchqueue.core.ids import PoolId
from orchqueue.core.outcome import Fault, Refusal
from orchqueue.http.app import build_app
from orchqueue.http.auth import Access
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.server import EdgeServer, bind, tls_context
from orchqueue.ports.errors import CannotListen
from orchqueue.ports.journal import Journal
from orchqueue.ports.process import ReplicaHost
from orchqueue.ports.telemetry import Telemetry
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue.runtime.gate import NewSettings
from orchqueue.runtime.lifecycle import Resources, Runtime
from orchqueue.runtime.supervision import Supervision

EXIT_OK = 0
EXIT_FAILED = 1
COMMIT_DELAY_MS = 2
# After each sync the journal's thread waits so long for a busy event loop, and the loop for a thread that renders metrics.
GIL_TURN_S = 0.001

ReadConfig = Callable[[], Config]


class Ending:
    """Why and when the daemon ends."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.code = EXIT_OK

    def ask(self) -> None:
        """Stop gracefully; asked again: at once."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def fail(self) -> None:
        """Stop at once because of a bug."""
        self.code = EXIT_FAILED
        self.asked.set()
        self.at_once.set()


def run(config: Config, read_config: ReadConfig, data_dir: str) -> int:
    """Serve until stopped; one line on standard output says where.

    `read_config` reads the configuration anew, for a reload.

    Shape: the process's exit code.
    Errors: PortError (data directory, journal, keys, address).
    Req: ORCH-4012, ORCH-4034, ORCH-4277
    """
    sys.setswitchinterval(GIL_TURN_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, read_config, data_dir))


async def _serve(config: Config, read_config: ReadConfig, data_dir: str) -> int:
    """Take resources in order and give them back in the opposite one, whatever fails in between."""
    ending = Ending()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        data = stack.enter_context(DataDirectory(data_dir))
        telemetry = MetricsTelemetry(clock, config.logging.level, config.logging.format)
        stack.callback(telemetry.close)
        access = _access(config, data, telemetry)
        sockets, tls = _listen(config)
        for bound in sockets:
            stack.callback(bound.close)

        def on_bug(error: Exception) -> None:
            trace = "".join(traceback.format_exception(error))
            telemetry.log("error", "bug", {"detail": "a bug stopped the daemon; please report it", "trace": trace})
            ending.fail()

        replicas_dir = Path(data.subdirectory("replicas"))
        leftovers = await _leftovers(config, replicas_dir, telemetry, stack)
        models = ModelStore(Path(config.model_dir) if config.model_dir else None, telemetry.log, clock.now_ms)
        runtime = Runtime(
            to_settings(config),
            Resources(
                clock=clock,
                journal=_journal(config, data, telemetry),
                telemetry=telemetry,
                make_supervisor=_supervisor_maker(config, replicas_dir, models, leftovers),
                settings_source=ConfigInForce(config, read_config),
                on_bug=on_bug,
                stall_ms=config.journal.stall_ms,
                journal_max_bytes=config.journal.max_bytes,
                readers_per_task=config.server.limits.readers_per_task,
                stalled_reader_ms=config.server.limits.stalled_reader_ms,
                heartbeat_ms=config.server.limits.heartbeat_ms,
                decisions=_decisions(config, telemetry, stack),
            ),
        )
        stack.push_async_callback(runtime.stop)
        limits = _edge_limits(config)
        app = build_app(runtime.gate, access, limits, telemetry.render, telemetry.log, models)
        server = EdgeServer(app, runtime.streams, limits, tls)
        await server.start(sockets)
        stack.push_async_callback(server.stop)
        _listen_to_signals(ending, runtime, telemetry)
        telemetry.log("info", "listening", {"detail": _url(config, sockets[0])})
        await _start(runtime, ending)
        leftovers.limit_patience()
        sys.stdout.write(f"OrchQueue {__version__} serves {_url(config, sockets[0])} (data in {data.path})\n")
        sys.stdout.flush()
        telemetry.log("info", "serving", {"detail": _url(config, sockets[0])})
        await ending.asked.wait()
        telemetry.log("info", "stopping", {"running_tasks": runtime.running()})
        await _drain(runtime, ending, config.server.shutdown_grace_ms)
    return ending.code


async def _start(runtime: Runtime, ending: Ending) -> None:
    """Recover while the edge answers already; a wish to end that comes meanwhile ends it early.

    Recovered tasks are told to the collector as old: it would walk through all of them, again and again, and the loop would
    stand still for half a second each time.
    """
    gc.disable()
    starting, asked = asyncio.create_task(runtime.start()), asyncio.create_task(ending.asked.wait())
    await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not starting.done():
        runtime.begin_shutdown()
    try:
        await starting
    finally:
        gc.freeze()
        gc.enable()


def _listen_to_signals(ending: Ending, runtime: Runtime, telemetry: Telemetry) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.ask)
    reloads: set[asyncio.Task[object]] = set()

    def on_hangup() -> None:
        task: asyncio.Task[object] = loop.create_task(_renew(runtime, telemetry))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)


async def _renew(runtime: Runtime, telemetry: Telemetry) -> None:
    """Read the configuration again for a signal, which has no other answer than the log."""
    answer = await runtime.gate.reload_config()
    if isinstance(answer, Refusal):
        told = "; ".join(f"{fault.pointer}: {fault.message}" for fault in answer.faults)
        telemetry.log("error", "config_refused", {"detail": f"{answer.message}: {told}"})
    elif waiting := str(answer.detail["needs_restart"]):
        telemetry.log("warning", "config_needs_restart", {"detail": waiting.replace("\n", " ")})


async def _drain(runtime: Runtime, ending: Ending, grace_ms: int) -> None:
    """Let running tasks finish and be told within the grace; a second signal ends the wait. The rest stays in the journal.

    Req: ORCH-4208
    """
    runtime.begin_shutdown()
    at_once = asyncio.create_task(ending.at_once.wait())
    deadline = asyncio.get_running_loop().time() + grace_ms / 1000
    while runtime.is_at_work() and not at_once.done() and asyncio.get_running_loop().time() < deadline:
        await asyncio.wait({at_once}, timeout=0.05)
    at_once.cancel()
    await asyncio.wait({at_once})


async def _leftovers(
    config: Config, replicas_dir: Path, telemetry: MetricsTelemetry, stack: AsyncExitStack
) -> Leftovers:
    leftovers = Leftovers(replicas_dir, telemetry.log)
    stack.push_async_callback(leftovers.close)
    await leftovers.begin(
        {name for pool in config.pools if pool.launch.mode != "external" for name in replica_ids(pool)}
    )
    return leftovers


def _supervisor_maker(
    config: Config, replicas_dir: Path, models: ModelStore, leftovers: Leftovers
) -> Callable[[Callable[[AnyEvent], None]], Supervision]:
    probe = DeviceProbe()
    hosts = {PoolId(pool.id): _host(pool, replicas_dir, models, probe, leftovers) for pool in config.pools}
    pool_of = {name: PoolId(pool.id) for pool in config.pools for name in replica_ids(pool)}
    return lambda post: Supervision(hosts, pool_of, post)


def _host(pool: Pool, replicas_dir: Path, models: ModelStore, probe: DeviceProbe, leftovers: Leftovers) -> ReplicaHost:
    names = replica_ids(pool)
    if pool.launch.mode == "external":
        return ExternalHost(
            pool.engine,
            dict(zip(names, pool.launch.urls, strict=True)),
            Description(
                model_digest=pool.model_sha256,
                strict=is_strict(pool),
                ctx=pool.ctx,
                slots=pool.slots,
                model_ref=pool.model,
                workloads=pool.workloads,
            ),
            allow_simulated=pool.launch.allow_simulated,
            api_key=os.environ.get(pool.launch.api_key_env, "") if pool.launch.api_key_env else "",
            devices=pool.devices,
            probe=probe,
        )
    settings = SpawnSettings(
        pool_id=pool.id,
        ctx=pool.ctx,
        slots=pool.slots,
        strict=is_strict(pool),
        allow_cpu=pool.allow_cpu,
        devices=dict.fromkeys(names, pool.devices),
        tensor_split=pool.tensor_split,
        args=pool.launch.args,
        env=pool.launch.env,
        model_ref=pool.model,
        model_sha256=pool.model_sha256,
        replicas=len(names),
        workload=pool.workloads[0],
    )
    return LlamacppSpawnHost(settings, replicas_dir, models, probe=probe, leftovers=leftovers)


def _listen(config: Config) -> tuple[list[socket.socket], ssl.SSLContext | None]:
    host, port = config.server.host, config.server.port
    try:
        tls = tls_context(config.server.tls.cert, config.server.tls.key) if config.server.tls else None
        return bind(host, port), tls
    except ssl.SSLError as error:
        raise CannotListen(f"the TLS certificate or key cannot be used: {error.reason or error}") from error
    except OSError as error:
        advice = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        raise CannotListen(f"{host}:{port} cannot be listened on: {error.strerror or error}{advice}") from error


def _access(config: Config, data: DataDirectory, telemetry: MetricsTelemetry) -> Access:
    if config.auth.keys_file is None:
        return Access(None, config.auth.allow_anonymous_loopback is not False)

    def on_problem(text: str) -> None:
        telemetry.log("error", "keys_unreadable", {"detail": text})

    ring = KeyRing(KeyStore(config.auth.keys_file, data.path), on_problem)
    return Access(ring, config.auth.allow_anonymous_loopback is True)


def _journal(config: Config, data: DataDirectory, telemetry: MetricsTelemetry) -> Journal:
    loop = asyncio.get_running_loop()
    if config.journal.durability == "memory":

        def schedule(delay_ms: int, act: Callable[[], None]) -> None:
            loop.call_later(delay_ms / 1000, act)

        return MemoryJournal(schedule, lambda: COMMIT_DELAY_MS)
    path = config.journal.path or data.file("journal.sqlite")
    telemetry.log("info", "journal", {"detail": path})
    return SqliteJournal(path, loop.call_soon_threadsafe, durability=config.journal.durability)


def _decisions(config: Config, telemetry: MetricsTelemetry, stack: AsyncExitStack) -> DecisionLog:
    """Open the log of decisions; a file that cannot be written is told of and left out, for nothing rests on it.

    Req: ORCH-4326
    """

    def on_problem(text: str) -> None:
        telemetry.log("error", "decision_file_off", {"detail": text})

    keeper, wanted = None, config.explain
    if wanted.file is not None:
        try:
            keeper = DecisionFile(wanted.file, wanted.file_bytes, on_problem)
            stack.callback(keeper.close)
        except OSError as error:
            on_problem(f"{wanted.file} cannot be opened ({error.strerror}); decisions are kept in memory only")
    return DecisionLog(wanted.entries, wanted.bytes, keeper)


def _edge_limits(config: Config) -> EdgeLimits:
    limits = config.server.limits
    return EdgeLimits(
        header_bytes=limits.header_bytes,
        body_bytes=limits.body_bytes,
        header_timeout_ms=limits.header_timeout_ms,
        body_timeout_ms=limits.body_timeout_ms,
        idle_timeout_ms=limits.idle_timeout_ms,
        connections=limits.connections,
    )


class ConfigInForce:
    """The configuration that the daemon runs with, and the one before it.

    Req: ORCH-4205, ORCH-4207, ORCH-4328
    """

    def __init__(self, config: Config, read_config: ReadConfig) -> None:
        self._config = config
        self._before: Config | None = None
        self._found = config
        self._before_found: Config | None = None
        self._read_config = read_config

    def renew(self) -> NewSettings | list[Fault]:
        """Read the file again, and find what of it can be in force without a restart."""
        try:
            changes = merge(self._config, self._read_config())
        except ConfigError as error:
            return [problem.fault() for problem in error.problems]
        # A reload that changes nothing must not cost the way back.
        self._found, self._before_found = changes.config, self._config if changes.applied else self._before
        return NewSettings(to_settings(changes.config), changes.applied, changes.needs_restart)

    def revert(self) -> NewSettings | None:
        """Find what was in force before the last change, for one step back."""
        if self._before is None:
            return None
        changes = merge(self._config, self._before)
        self._found, self._before_found = changes.config, None
        return NewSettings(to_settings(changes.config), changes.applied, changes.needs_restart)

    def adopt(self) -> None:
        """Take note that what was found last is in force now."""
        self._config, self._before = self._found, self._before_found


def _url(config: Config, bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    scheme = "https" if config.server.tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
