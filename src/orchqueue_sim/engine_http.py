"""What every simulated engine shares: HTTP, slots, streams and their misfortunes on demand. One subclass for each wire format.

A simulated engine says so where its adapter looks, so that none takes it for a model unless it was told to. `POST /sim/faults`
changes what goes wrong from then on.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

import msgspec

from orchqueue_sim import engine_text
from orchqueue_sim.engine_faults import UNTIL_TOLD, Faults, FaultyStream

HEAD_MAX_BYTES = 64 * 1024
STATUS_FAULTS = {400: "rejected", 429: "overloaded", 503: "overloaded"}


class SimSettings(msgspec.Struct, frozen=True):
    """How the engine behaves when nothing goes wrong.

    `api_key` empty: open to all. `version`, `model` empty: what the engine's kind calls itself. `max_requests`: so many at once, those
    that wait included, where the kind refuses more.
    """

    slots: int = 1
    ctx: int = 2048
    tokens_per_s: float = 200.0
    prefill_tokens_per_s: float = 4000.0
    version: str = ""
    model: str = ""
    api_key: str = ""
    loading_ms: int = 0
    max_requests: int = 128


class Refused(Exception):
    """A request that the engine does not take."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LateRefusal(Refused):
    """A request that is refused in a stream that began well, as some engines do."""


class Slot:
    """One decode at a time. `marker`: what its request can be told by."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.marker = 0.0
        self.busy = False
        self.prompt_tokens = 0


class Script(msgspec.Struct, frozen=True):
    """One completion to be spoken. `params`: the request, in the words of `engine_text.write`."""

    params: dict[str, Any]
    prompt_tokens: int
    output: engine_text.Output
    echo: dict[str, Any] = {}


class SimulatedEngine(ABC):
    """The server's state. `text_field`: the JSON member that holds text, where broken UTF-8 is put."""

    server: ClassVar[str]
    text_field: ClassVar[str]
    open_paths: ClassVar[frozenset[str]] = frozenset({"/health"})

    def __init__(self, settings: SimSettings, faults: Faults) -> None:
        self.settings = settings
        self.faults = faults
        self._slots = [Slot(number) for number in range(settings.slots)]
        self._free = asyncio.Semaphore(settings.slots)
        self._stubborn: list[Slot] = []
        # Cuts differ in each run on purpose: nobody may rely on them.
        self._cuts = Random()
        self._loaded_at_s = asyncio.get_running_loop().time() + settings.loading_ms / 1000
        self.prompt_tokens = 0
        self.predicted_tokens = 0
        self.deferred = 0
        self.begun = 0

    # what each kind of engine says

    @abstractmethod
    def error(self, status: int, message: str) -> object:
        """Make the body of an error."""

    @abstractmethod
    def is_completion(self, method: str, path: str) -> bool:
        """Tell whether a request is for a stream of text."""

    @abstractmethod
    def read(self, path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Read a completion's request: its prompt, and its parameters in the words of `engine_text.write`.

        Errors: Refused; ValueError, KeyError, TypeError for what is no such request (400).
        """

    @abstractmethod
    def plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer any other request; bytes are sent as plain text.

        Errors: ValueError, KeyError, TypeError for what is no such request (400).
        """

    def opening(self, script: Script) -> list[dict[str, Any]]:
        """Give the events before the first token."""
        del script
        return []

    @abstractmethod
    def token(self, script: Script, text: str, said: int) -> dict[str, Any] | None:
        """Give the event of some text after `said` tokens; empty text is held back, and None sends nothing."""

    @abstractmethod
    def closing(self, script: Script, prefill_ms: float, decode_ms: float) -> list[dict[str, Any] | bytes]:
        """Give the events after the last token; bytes are data that is no JSON."""

    def stream_error(self) -> bytes:
        """Give the frame of an error in the middle of a stream."""
        return self.frame(json.dumps(self.error(500, "simulated fault")).encode())

    def late(self, error: object) -> list[dict[str, Any] | bytes]:
        """Give the events of a stream that only refuses."""
        return [json.dumps(error).encode()]

    def frame(self, data: bytes) -> bytes:
        """Make an event of data."""
        return b"data: " + data + b"\n\n"

    def struck(self, fault: str) -> None:  # noqa: B027 - most do not count
        """Learn that a fault has met somebody; whoever keeps count says so in a subclass."""

    # figures that each kind tells in its own words

    @property
    def url_suffix(self) -> str:
        """Give what its URL must say beside host and port."""
        return ""

    @property
    def busy(self) -> int:
        """Count the slots at work."""
        return sum(slot.busy for slot in self._slots)

    @property
    def loading(self) -> bool:
        """Tell whether the model is not there yet."""
        return self.faults.unhealthy or asyncio.get_running_loop().time() < self._loaded_at_s

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Listen."""
        return await asyncio.start_server(self._connected, host, port, limit=HEAD_MAX_BYTES)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        wanted = self.settings.api_key
        if wanted and path not in self.open_paths and headers.get("authorization") != f"Bearer {wanted}":
            self._answer(writer, 401, self.error(401, "Invalid API Key"))
        elif self.is_completion(method, path):
            return await self._complete(path, body, reader, writer)
        else:
            if self.faults.template_delay_ms and b"messages" in body:
                await asyncio.sleep(self.faults.template_delay_ms / 1000)
            self._answer(writer, *self._plain(method, path, body))
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    def _plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        try:
            if (method, path) == ("POST", "/sim/faults"):
                self.faults = msgspec.json.decode(body, type=Faults)
                self._yield_slots()
                return 200, {"faults": msgspec.to_builtins(self.faults)}
            return self.plain(method, path, body)
        except Refused as refused:
            return refused.status, self.error(refused.status, str(refused))
        except (ValueError, KeyError, TypeError) as error:
            return 400, self.error(400, str(error))

    def _answer(self, writer: asyncio.StreamWriter, status: int, body: object) -> None:
        data, kind = (
            (body, "text/plain; version=0.0.4")
            if isinstance(body, bytes)
            else (json.dumps(body).encode(), "application/json")
        )
        writer.write(
            f"HTTP/1.1 {status} Simulated\r\nServer: {self.server}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )

    def _take_faults(self) -> Faults:
        faults = self.faults
        if faults.times == 0:
            return msgspec.structs.replace(Faults(), hide_slots=faults.hide_slots)
        if faults.times > 0:
            self.faults = msgspec.structs.replace(faults, times=faults.times - 1)
        return faults

    def _script(self, path: str, body: bytes, faults: Faults) -> Script:
        request: dict[str, Any] = json.loads(body)
        prompt, params = self.read(path, request)
        prompt_tokens = len(engine_text.tokenize(prompt))
        if prompt_tokens > self.settings.ctx:
            text = f"request ({prompt_tokens} tokens) exceeds the available context size ({self.settings.ctx} tokens)"
            raise Refused(400, text)
        salt = str(self._cuts.random()) if faults.not_deterministic else ""
        return Script({"prompt": prompt, **params}, prompt_tokens, engine_text.write(prompt, params, salt), request)

    async def _complete(
        self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        faults = self._take_faults()
        try:
            if faults.status:
                self.struck(STATUS_FAULTS.get(faults.status, "engine_500"))
                raise Refused(faults.status, "simulated fault")
            script = self._script(path, body, faults)
        except LateRefusal as refused:
            stream = FaultyStream(self, writer, Faults(), self._cuts)
            stream.begin()
            await stream.last(self.late(self.error(refused.status, str(refused))))
            return False
        except Refused as refused:
            self._answer(writer, refused.status, self.error(refused.status, str(refused)))
            return False
        except (ValueError, KeyError, TypeError) as error:
            self._answer(writer, 400, self.error(400, str(error)))
            return False
        if faults.queue_ms:
            self.struck("late_to_slot")
        await asyncio.sleep(faults.queue_ms / 1000)
        work = asyncio.ensure_future(self._decode(writer, script, faults))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})
        problem = None if work.cancelled() else work.exception()
        if problem is not None and not isinstance(problem, ConnectionError):
            raise problem
        return False

    async def _decode(self, writer: asyncio.StreamWriter, script: Script, faults: Faults) -> None:
        self.deferred += 1
        try:
            await self._free.acquire()
        finally:
            self.deferred -= 1
        slot = next(slot for slot in self._slots if not slot.busy)
        slot.busy = True
        self.begun += 1
        slot.marker = float(script.params.get("marker", 5.0))
        slot.prompt_tokens = script.prompt_tokens
        stream = FaultyStream(self, writer, faults, self._cuts)
        try:
            await self._speak(stream, script, slot)
        except (asyncio.CancelledError, ConnectionError):
            # That its client has gone it learns from its read, or from a write where that comes first.
            if faults.ignore_abort_ms:
                self.struck("ignored_abort")
                self._hold(slot, faults.ignore_abort_ms)
                slot = Slot(-1)
            raise
        finally:
            if slot.number >= 0:
                self._release(slot)

    def _hold(self, slot: Slot, ignore_abort_ms: int) -> None:
        if ignore_abort_ms == UNTIL_TOLD:
            self._stubborn.append(slot)
            # It may have been told before the slot's client had gone.
            if self.faults.ignore_abort_ms != UNTIL_TOLD:
                self._yield_slots()
        else:
            # The task is being cancelled, so the slot's stubbornness needs one of its own.
            asyncio.get_running_loop().call_later(ignore_abort_ms / 1000, self._release, slot)

    def _yield_slots(self) -> None:
        stubborn, self._stubborn = self._stubborn, []
        for slot in stubborn:
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        slot.busy = False
        self._free.release()

    async def _speak(self, stream: FaultyStream, script: Script, slot: Slot) -> None:
        settings, output = self.settings, script.output
        stream.begin()
        for first in self.opening(script):
            await stream.event(first)
        prefill_s = script.prompt_tokens / settings.prefill_tokens_per_s + stream.faults.first_token_delay_ms / 1000
        if stream.faults.first_token_delay_ms:
            self.struck("slow_first_token")
        await asyncio.sleep(prefill_s)
        self.prompt_tokens += script.prompt_tokens
        said = 0
        held = ""
        for piece in output.pieces:
            await asyncio.sleep(piece.tokens / settings.tokens_per_s)
            said += piece.tokens
            self.predicted_tokens += piece.tokens
            slot.prompt_tokens += piece.tokens
            held += piece.text
            # A real engine holds text back while it may be the beginning of a stop word, and shows several pieces at once.
            hold = self._cuts.random() < 0.15
            event = self.token(script, "" if hold else held, said)
            if event is not None:
                await stream.event(event, said)
            held = held if hold else ""
        if held and (event := self.token(script, held, said)) is not None:
            await stream.event(event, said)
        decode_ms = 1000 * output.tokens / settings.tokens_per_s
        await stream.last(self.closing(script, prefill_s * 1000, decode_ms))
