"""The small parent of one engine process: `python -m orchqueue.adapters.processes.launcher`.

Standard input is a socket: its first line holds the orders, and its other end is the first owner. The launcher outlives the daemon:
who connects to its own socket and knows the token may own the engine when its last owner has gone, never beside another. When
nobody has owned it for the grace time, or the launcher is told to stop, the engine gets TERM, five seconds, KILL. If the launcher
itself is killed, the kernel kills the engine. Standard library only, one thread, so that it stays small.

Wire, a JSON object a line. To it: {"token", "command": "own" | "status" | "stop"}. From it: {"event": "status" | "owned",
"engine_pid", "engine_start_ticks", "port", "fingerprint"}, where "owned" holds "secret" too; {"event": "refused", "detail": "owned" |
"ending"}, {"event": "listening", "port"}, {"event": "exited", "returncode", "asked"}, {"event": "failed", "detail"}.
"""

from __future__ import annotations

import ctypes
import hmac
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from orchqueue.adapters.processes.identity import Identity, ProcessId, boot_id, start_ticks_of, write_identity

PR_SET_PDEATHSIG = 1
LINE_MAX_BYTES = 4096
ORDERS_MAX_BYTES = 1 << 20
READY_VARIABLE = "ORCHQUEUE_READY_FD"
OWNED = "owned"
ENDING = "ending"


class Orders(NamedTuple):
    """What the launcher is to do; arrives as one JSON object.

    `name` is the stem of the socket and identity files in the working directory. `secret`: told to a later owner and nobody else; it
    stands in no file. Units: `log_max_bytes` for each of two files.
    """

    replica_id: str
    name: str
    token: str
    secret: str
    fingerprint: str
    argv: list[str]
    env: dict[str, str]
    log_name: str
    log_max_bytes: int
    orphan_grace_s: float
    stop_grace_s: float


class BoundedLog:
    """A log of two files at most: what an earlier process left, and a file that is full, becomes the old one."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        with suppress(FileNotFoundError):
            self._retire()
        self._file = self._open()
        self._size_bytes = 0

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def _retire(self) -> None:
        self._path.replace(self._path.with_suffix(".old.log"))

    def write(self, data: bytes) -> None:
        """Append; a full disk loses lines, never the engine."""
        if self._size_bytes + len(data) > self._max_bytes:
            with suppress(OSError):
                os.close(self._file)
                self._retire()
                self._file = self._open()
                self._size_bytes = 0
        with suppress(OSError):
            self._size_bytes += os.write(self._file, data)


class Peer:
    """One connection. `owns`: it hears how the engine ends, and as long as it lasts nobody else may own."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pending = b""
        self.owns = False

    def tell(self, message: dict[str, object]) -> None:
        """Send a line; a peer that is gone or does not read is noticed elsewhere."""
        with suppress(OSError):
            self.connection.send(json.dumps(message).encode() + b"\n")


class Launcher:
    """Owns one engine process until it has ended.

    Req: ORCH-3053, ORCH-4027, ORCH-4379
    """

    def __init__(self, orders: Orders, owner: socket.socket, heard: bytes) -> None:
        self._orders = orders
        self._socket_path = Path(f"{orders.name}.sock")
        self._identity_path = Path(f"{orders.name}.json")
        self._log = BoundedLog(Path(orders.log_name), orders.log_max_bytes)
        self._selector = selectors.DefaultSelector()
        self._peers: set[Peer] = set()
        self._engine = ProcessId(0, 0)
        self._port = 0
        self._asked = False
        self._kill_at_s: float | None = None
        self._orphan_at_s: float | None = None
        self._first_owner = self._welcome(owner)
        self._first_owner.owns = True
        self._heard = heard

    def run(self) -> int:
        """Serve until the engine has ended."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._socket_path))
        try:
            listener.listen(8)
            listener.setblocking(False)
            self._serve(listener)
        finally:
            self._socket_path.unlink(missing_ok=True)
            self._identity_path.unlink(missing_ok=True)
        return 0

    def _serve(self, listener: socket.socket) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        if self._has_left(self._first_owner):
            # It died before anything was written by which a later one could find the engine.
            return
        engine, output, ready = self._spawn()
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 4096))
        self._selector.register(output, selectors.EVENT_READ, lambda: self._copy(output))
        self._selector.register(ready, selectors.EVENT_READ, lambda: self._hear_ready(ready))
        self._take(self._first_owner, self._heard)
        while engine.poll() is None:
            self._turn(engine)
        self._drain(output)
        self._announce({"event": "exited", "returncode": engine.returncode, "asked": self._asked})

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int, int]:
        output_read, output_write = os.pipe()
        ready_read, ready_write = os.pipe()
        os.set_blocking(output_read, False)
        libc = ctypes.CDLL(None, use_errno=True)
        launcher_pid = os.getpid()

        def die_with_launcher() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher_pid:
                os._exit(1)

        # One thread only, so running Python between fork and exec is safe.
        engine = subprocess.Popen(
            self._orders.argv,
            env={**os.environ, **self._orders.env, READY_VARIABLE: str(ready_write)},
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            pass_fds=(ready_write,),
            preexec_fn=die_with_launcher,  # noqa: PLW1509
        )
        os.close(output_write)
        os.close(ready_write)
        self._engine = ProcessId(engine.pid, start_ticks_of(engine.pid) or 0)
        launcher = ProcessId(launcher_pid, start_ticks_of(launcher_pid) or 0)
        orders = self._orders
        write_identity(
            self._identity_path,
            Identity(orders.replica_id, orders.token, launcher, self._engine, orders.fingerprint, boot_id()),
        )
        return engine, output_read, ready_read

    def _turn(self, engine: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        if self._orphan_at_s is not None and now_s >= self._orphan_at_s:
            self._stop()
        if self._asked and self._kill_at_s is None:
            engine.terminate()
            self._kill_at_s = now_s + self._orders.stop_grace_s
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            engine.kill()
        due = [at for at in (self._orphan_at_s, self._kill_at_s) if at is not None]
        timeout_s = max(0.01, min(due) - now_s) if due else None
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _stop(self) -> None:
        self._asked = True
        self._orphan_at_s = None

    def _copy(self, output: int) -> None:
        data = os.read(output, 65536)
        if data:
            self._log.write(data)
        else:
            self._selector.unregister(output)

    def _drain(self, output: int) -> None:
        with suppress(OSError):
            while data := os.read(output, 65536):
                self._log.write(data)

    def _hear_ready(self, ready: int) -> None:
        said = os.read(ready, 64)
        if said.strip().isdigit():
            self._port = int(said)
            self._announce({"event": "listening", "port": self._port})
        else:
            self._selector.unregister(ready)

    def _announce(self, message: dict[str, object]) -> None:
        for peer in self._peers:
            if peer.owns:
                peer.tell(message)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            self._welcome(listener.accept()[0])

    def _welcome(self, connection: socket.socket) -> Peer:
        connection.setblocking(False)
        peer = Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(peer))
        return peer

    @staticmethod
    def _has_left(peer: Peer) -> bool:
        poll = select.poll()
        poll.register(peer.connection, 0)
        return any(seen & select.POLLHUP for _, seen in poll.poll(0))

    def _hear(self, peer: Peer) -> bool:
        """Take what a peer said, or its end; tell whether there may be more."""
        if peer not in self._peers:
            return False
        try:
            data = peer.connection.recv(LINE_MAX_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._take(peer, data)
        else:
            self._part(peer)
        return bool(data)

    def _take(self, peer: Peer, data: bytes) -> None:
        peer.pending += data
        if len(peer.pending) > 2 * LINE_MAX_BYTES:
            self._part(peer)
            return
        *lines, peer.pending = peer.pending.split(b"\n")
        for line in lines:
            if not self._obey(peer, line):
                self._part(peer)
                return

    def _obey(self, peer: Peer, line: bytes) -> bool:
        try:
            message = json.loads(line)
            command, token = str(message["command"]), str(message["token"])
        except (ValueError, TypeError, KeyError):
            return False
        if not hmac.compare_digest(token.encode(), self._orders.token.encode()):
            return False
        told: dict[str, object] = {
            "event": "status",
            "engine_pid": self._engine.pid,
            "engine_start_ticks": self._engine.start_ticks,
            "port": self._port,
            "fingerprint": self._orders.fingerprint,
        }
        if command == "stop":
            peer.owns = True
            self._stop()
        elif command == "own" and (refusal := self._refusal(peer)):
            told = {"event": "refused", "detail": refusal}
        elif command == "own":
            peer.owns = True
            self._orphan_at_s = None
            told |= {"event": "owned", "secret": self._orders.secret}
        peer.tell(told)
        return True

    def _refusal(self, peer: Peer) -> str:
        """Say why a peer may not own the engine now; an owner that has gone is noticed first, and its last words count."""
        for other in tuple(self._peers):
            while other is not peer and other.owns and self._hear(other):
                pass
        if self._asked:
            return ENDING
        return OWNED if any(other.owns and other is not peer for other in self._peers) else ""

    def _part(self, peer: Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        self._peers.discard(peer)
        if not self._asked and not any(other.owns for other in self._peers) and self._orphan_at_s is None:
            self._orphan_at_s = time.monotonic() + self._orders.orphan_grace_s


def read_orders(owner: socket.socket) -> tuple[Orders, bytes]:
    """Read the first line, and what came with it.

    Errors: ValueError when it is not there.
    """
    line = b""
    while b"\n" not in line:
        more = owner.recv(65536)
        if not more or len(line) > ORDERS_MAX_BYTES:
            raise ValueError("no orders")
        line += more
    first, _, rest = line.partition(b"\n")
    return Orders(**json.loads(first)), rest


def main() -> int:
    """Read the orders and serve; the owner hears of whatever goes wrong."""
    owner = socket.socket(fileno=os.dup(0))
    os.umask(0o077)
    try:
        orders, rest = read_orders(owner)
        return Launcher(orders, owner, rest).run()
    except Exception as error:  # noqa: BLE001 - nobody else can tell the owner
        with suppress(OSError):
            owner.send(json.dumps({"event": "failed", "detail": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
