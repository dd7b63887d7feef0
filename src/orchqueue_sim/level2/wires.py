"""A network in memory: connections that are late, cut what is written, fill up, break and lead nowhere."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from random import Random

import msgspec

from orchqueue_sim.level2.virtual_loop import Realm, VirtualLoop, realm_of

Address = tuple[str, int]
Factory = Callable[[], asyncio.Protocol]
FIN = b""
COALESCED = 0.3


class Weather(msgspec.Struct):
    """How the network behaves now.

    Units: `latency_ms` is the most that a piece takes; `cut` is the chance that a write arrives in pieces.
    """

    latency_ms: int = 1
    cut: float = 0.0


class Door:
    """Stands for a bound socket where a server wants one."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def dup(self) -> Door:
        """Give the same door."""
        return self

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


class Listener:
    """Where a server takes connections."""

    def __init__(self, network: Network, factory: Factory, address: Address) -> None:
        self.factory = factory
        self.address = address
        self.context = copy_context()
        self.closed = False
        self._network = network

    def close(self) -> None:
        """Take none any more."""
        self.closed = True
        self._network.close_door(self)


class Network:
    """Every connection and every door."""

    def __init__(self, loop: VirtualLoop, rng: Random, weather: Weather) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = weather
        self.on_cut: Callable[[], None] = lambda: None
        self._listeners: dict[Address, list[Listener]] = {}
        self._wires: dict[Wire, None] = {}
        self._last_port = 40_000

    def listen(self, factory: Factory, address: Address) -> Listener:
        """Open a door."""
        listener = Listener(self, factory, address)
        self._listeners.setdefault(address, []).append(listener)
        return listener

    @staticmethod
    def address_of(sock: object) -> Address:
        """Tell where a stand-in for a bound socket leads."""
        assert isinstance(sock, Door)
        return sock.address

    def close_door(self, listener: Listener) -> None:
        """Close a door."""
        doors = self._listeners.get(listener.address, [])
        if listener in doors:
            doors.remove(listener)

    async def connect(self, factory: Factory, host: str, port: int) -> tuple[Wire, asyncio.Protocol]:
        """Make a connection.

        Errors: ConnectionRefusedError where nobody listens.
        """
        await asyncio.sleep(self.delay_s())
        doors = self._listeners.get((host, port))
        if not doors:
            raise ConnectionRefusedError(111, f"Connect call failed {(host, port)}")
        listener = doors[0]
        self._last_port += 1
        here, there = ("127.0.0.1", self._last_port), (host, port)
        near, far = Wire(self, copy_context(), here, there), Wire(self, listener.context.copy(), there, here)
        near.peer, far.peer = far, near
        self._wires[near] = self._wires[far] = None
        protocol = near.protocol = factory()
        protocol.connection_made(near)
        self.loop.call_later(self.delay_s(), far.accept, listener, context=far.context)
        return near, protocol

    def delay_s(self) -> float:
        """Draw how long a piece travels."""
        return self.rng.randint(0, self.weather.latency_ms) / 1000

    def gone(self, wire: Wire) -> None:
        """Forget a connection's end."""
        self._wires.pop(wire, None)

    def cut(self, realm: Realm) -> None:
        """Close what a dead realm held; its peers notice."""
        for address, doors in self._listeners.items():
            self._listeners[address] = [door for door in doors if realm_of(door.context) is not realm]
        for wire in tuple(self._wires):
            if realm_of(wire.context) is realm:
                wire.die()

    def held_by(self, realm: Realm) -> list[str]:
        """List a realm's connections and doors."""
        doors = {a for a, ls in self._listeners.items() for one in ls if realm_of(one.context) is realm}
        wires = [f"connection {w.here} to {w.there}" for w in self._wires if realm_of(w.context) is realm]
        return [*(f"door {address}" for address in sorted(doors)), *wires]


class Wire(asyncio.Transport):
    """One end of a connection. What is written counts as buffered until the other end has taken it."""

    peer: Wire
    protocol: asyncio.Protocol | None = None

    def __init__(self, network: Network, context: Context, here: Address, there: Address) -> None:
        super().__init__()
        self.context = context
        self.here, self.there = here, there
        self._network = network
        self._loop = network.loop
        self._inbox: deque[bytes] = deque()
        self.arriving: deque[bytes] = deque()
        self._reading = True
        self._closing = False
        self._over = False
        self._eof_sent = False
        self._high_bytes = 64 * 1024
        self.low_bytes = 16 * 1024
        self.unread_bytes = 0
        self.paused_peer = False

    def accept(self, listener: Listener) -> None:
        """Hand this end to the server's protocol, unless the door has closed meanwhile."""
        if listener.closed:
            self.abort()
        if self._over or self._closing:
            return
        self.protocol = listener.factory()
        self.protocol.connection_made(self)
        self._read()

    # the transport that protocols see

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Give the addresses; there is no socket."""
        return {"peername": self.there, "sockname": self.here}.get(name, default)

    def is_closing(self) -> bool:
        """Tell whether this end is closed or closing."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when to pause the writer."""
        self._high_bytes = 64 * 1024 if high is None else high
        self.low_bytes = self._high_bytes // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Count what the other end has not taken yet."""
        return self.peer.unread_bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if self._closing or self._eof_sent or not data:
            return
        self._send(bytes(data))
        peer = self.peer
        peer.unread_bytes += len(data)
        if peer.unread_bytes > self._high_bytes and not peer.paused_peer:
            peer.paused_peer = True
            if self.protocol is not None:
                self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Tell that half-closing works."""
        return True

    def write_eof(self) -> None:
        """Send nothing more."""
        if not self._eof_sent and not self._closing:
            self._eof_sent = True
            self._send(FIN)

    def close(self) -> None:
        """Close after everything written has left."""
        if self._closing:
            return
        self.write_eof()
        self._closing = True
        self._loop.call_soon(self.lose, None, context=self.context)

    def abort(self) -> None:
        """Close at once; what has not arrived is lost."""
        if self._over:
            return
        self._closing = True
        self._loop.call_soon(self.lose, None, context=self.context)
        self._reset_peer()

    def pause_reading(self) -> None:
        """Take nothing."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take again."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.call_soon(self._read, context=self.context)

    # what happens underneath

    def die(self) -> None:
        """Vanish with the process that held this end; its kernel closes for it."""
        if not self._over:
            if self._network.rng.random() < 0.5 and not self._eof_sent:
                self._send(FIN)
            else:
                self._reset_peer()
            self._closing = self._over = True
            self._network.gone(self)

    def _reset_peer(self) -> None:
        peer = self.peer
        peer.arriving.clear()
        self._loop.call_later(
            self._network.delay_s(), peer.lose, ConnectionResetError(104, "reset"), context=peer.context
        )

    def _send(self, data: bytes) -> None:
        network, peer = self._network, self.peer
        pieces = [data]
        if len(data) > 1 and network.rng.random() < network.weather.cut:
            network.on_cut()
            at = 1 + int(network.rng.random() * (len(data) - 1))
            pieces = [data[:at], data[at:]]
        for piece in pieces:
            peer.arriving.append(piece)
            self._loop.call_later(network.delay_s(), peer.arrive, context=peer.context)

    def arrive(self) -> None:
        """Take in the next piece that has travelled."""
        if not self.arriving:
            return  # It came together with an earlier piece.
        piece = self.arriving.popleft()
        if self._over:
            if piece:
                self._reset_peer()
            return
        while piece and self.arriving and self.arriving[0] and self._network.rng.random() < COALESCED:
            piece += self.arriving.popleft()
        self._inbox.append(piece)
        self._read()

    def _read(self) -> None:
        while self._inbox and self._reading and not self._closing and self.protocol is not None:
            data = self._inbox.popleft()
            if data == FIN:
                if not self.protocol.eof_received():
                    self.close()
                return
            self._taken(len(data))
            self.protocol.data_received(data)

    def _taken(self, count: int) -> None:
        self.unread_bytes -= count
        peer = self.peer
        if self.paused_peer and self.unread_bytes <= peer.low_bytes:
            self.paused_peer = False
            if not peer.is_closing() and peer.protocol is not None:
                self._loop.call_soon(peer.protocol.resume_writing, context=peer.context)

    def lose(self, error: Exception | None) -> None:
        """Be gone, and say so."""
        if self._over:
            return
        self._closing = self._over = True
        self._network.gone(self)
        if self.protocol is not None:
            self.protocol.connection_lost(error)
