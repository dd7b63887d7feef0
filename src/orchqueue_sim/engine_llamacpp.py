"""A simulated llama.cpp server: its wire format over real HTTP, its slots, and its misfortunes on demand.

It calls itself simulated in `/props`, so that no adapter takes it for a model unless it was told to. `POST /sim/faults` changes what
goes wrong from then on.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec

from orchqueue_sim import engine_text

HEAD_MAX_BYTES = 64 * 1024
STATUS_FAULTS = {400: "rejected", 429: "overloaded", 503: "overloaded"}


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """What goes wrong. Counts are tokens into a stream; 0 or less: never. `times`: for how many completions, −1 all.

    `queue_ms`: a request takes that long to reach a slot, and is not cancelled on the way. `not_deterministic`: the same request
    gives other texts. `ignore_abort_ms`: a slot works on after its client has gone. `late_close_ms`: the response is completed that
    long after its last event. `double_close`: the last event comes twice.
    """

    times: int = -1
    status: int = 0
    first_token_delay_ms: int = 0
    queue_ms: int = 0
    silent_after: int = 0
    eof_after: int = 0
    error_after: int = 0
    broken_utf8_after: int = 0
    broken_json_after: int = 0
    exit_after: int = 0
    exit_code: int = 1
    split_frames: bool = False
    ignore_abort_ms: int = 0
    late_close_ms: int = 0
    double_close: bool = False
    not_deterministic: bool = False
    unhealthy: bool = False
    hide_slots: bool = False
    template_fails: bool = False
    template_delay_ms: int = 0


class SimSettings(msgspec.Struct, frozen=True):
    """How the engine behaves when nothing goes wrong. `api_key` empty: open to all."""

    slots: int = 1
    ctx: int = 2048
    tokens_per_s: float = 200.0
    prefill_tokens_per_s: float = 4000.0
    version: str = "b0-simulated"
    model_path: str = "/models/simulated.gguf"
    api_key: str = ""
    loading_ms: int = 0


class Slot:
    """One decode at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.marker = 0.0
        self.busy = False
        self.prompt_tokens = 0

    def describe(self, ctx: int) -> dict[str, object]:
        """Make its entry in `/slots`."""
        entry: dict[str, object] = {"id": self.number, "n_ctx": ctx, "speculative": False, "is_processing": self.busy}
        if self.prompt_tokens:
            entry |= {"n_prompt_tokens": self.prompt_tokens, "params": {"mirostat": 0, "mirostat_tau": self.marker}}
        return entry


class SimulatedLlamacpp:
    """The server's state and routes."""

    def __init__(self, settings: SimSettings, faults: Faults) -> None:
        self.settings = settings
        self.faults = faults
        self._slots = [Slot(number) for number in range(settings.slots)]
        self._free = asyncio.Semaphore(settings.slots)
        # Cuts differ in each run on purpose: nobody may rely on them.
        self._cuts = Random()
        self._loaded_at_s = asyncio.get_running_loop().time() + settings.loading_ms / 1000
        self._prompt_tokens = 0
        self._predicted_tokens = 0
        self._deferred = 0
        self._begun = 0

    def struck(self, fault: str) -> None:
        """Learn that a fault has met somebody; whoever keeps count says so in a subclass."""

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
        if wanted and path != "/health" and headers.get("authorization") != f"Bearer {wanted}":
            _answer(writer, 401, _error(401, "Invalid API Key"))
        elif (method, path) == ("POST", "/completion"):
            return await self._complete(body, reader, writer)
        elif (method, path) == ("GET", "/metrics"):
            _answer(writer, 200, self._metrics().encode(), "text/plain; version=0.0.4")
        else:
            if path == "/apply-template" and self.faults.template_delay_ms:
                await asyncio.sleep(self.faults.template_delay_ms / 1000)
            _answer(writer, *self._plain(method, path, body))
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    def _plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        try:
            match method, path:
                case "GET", "/health":
                    loading = self.faults.unhealthy or asyncio.get_running_loop().time() < self._loaded_at_s
                    return (503, _error(503, "Loading model")) if loading else (200, {"status": "ok"})
                case "GET", "/props":
                    return 200, self._props()
                case "GET", "/slots":
                    if self.faults.hide_slots:
                        self.struck("hidden_slots")
                        return 501, _error(501, "This server does not support slots endpoint.")
                    return 200, [slot.describe(self.settings.ctx) for slot in self._slots]
                case "POST", "/tokenize":
                    return 200, {"tokens": engine_text.tokenize(json.loads(body)["content"])}
                case "POST", "/apply-template":
                    if self.faults.template_fails:
                        return 500, _error(500, "Conversation roles must alternate")
                    return 200, {"prompt": engine_text.apply_template(json.loads(body)["messages"])}
                case "POST", "/sim/faults":
                    self.faults = msgspec.json.decode(body, type=Faults)
                    return 200, {"faults": msgspec.to_builtins(self.faults)}
        except (ValueError, KeyError, TypeError) as error:
            return 400, _error(400, str(error))
        return 404, _error(404, "File Not Found")

    def _props(self) -> dict[str, object]:
        return {
            "default_generation_settings": {"n_ctx": self.settings.ctx, "params": {}},
            "total_slots": self.settings.slots,
            "model_path": self.settings.model_path,
            "chat_template": "chatml",
            "build_info": self.settings.version,
            "simulated": True,
        }

    def _metrics(self) -> str:
        figures = {
            "prompt_tokens_total": self._prompt_tokens,
            "tokens_predicted_total": self._predicted_tokens,
            "requests_processing": sum(slot.busy for slot in self._slots),
            "requests_deferred": self._deferred,
            "simulated_requests_begun_total": self._begun,
        }
        return "".join(f"llamacpp:{name} {value}\n" for name, value in figures.items())

    def _take_faults(self) -> Faults:
        faults = self.faults
        if faults.times == 0:
            return msgspec.structs.replace(Faults(), hide_slots=faults.hide_slots)
        if faults.times > 0:
            self.faults = msgspec.structs.replace(faults, times=faults.times - 1)
        return faults

    async def _complete(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        faults = self._take_faults()
        if faults.status:
            self.struck(STATUS_FAULTS.get(faults.status, "engine_500"))
            _answer(writer, faults.status, _error(faults.status, "simulated fault"))
            return False
        try:
            params: dict[str, Any] = json.loads(body)
            prompt = params["prompt"]
            prompt_tokens = len(engine_text.tokenize(prompt))
            salt = str(self._cuts.random()) if faults.not_deterministic else ""
            output = engine_text.write(prompt, params, salt)
        except (ValueError, KeyError, TypeError) as error:
            _answer(writer, 400, _error(400, str(error)))
            return False
        if prompt_tokens > self.settings.ctx:
            text = f"request ({prompt_tokens} tokens) exceeds the available context size ({self.settings.ctx} tokens)"
            _answer(writer, 400, _error(400, text))
            return False
        if faults.queue_ms:
            self.struck("late_to_slot")
        await asyncio.sleep(faults.queue_ms / 1000)
        work = asyncio.ensure_future(self._decode(writer, params, output, prompt_tokens, faults))
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

    async def _decode(
        self, writer: asyncio.StreamWriter, params: dict[str, Any], output: engine_text.Output, prompt_tokens: int, faults: Faults
    ) -> None:  # fmt: skip
        self._deferred += 1
        try:
            await self._free.acquire()
        finally:
            self._deferred -= 1
        slot = next(slot for slot in self._slots if not slot.busy)
        slot.busy = True
        self._begun += 1
        slot.marker = float(params.get("mirostat_tau", 5.0))
        slot.prompt_tokens = prompt_tokens
        stream = _Stream(writer, faults, self._cuts, self.struck)
        try:
            await self._speak(stream, params, output, prompt_tokens, slot)
        except asyncio.CancelledError:
            if faults.ignore_abort_ms:
                self.struck("ignored_abort")
                # The task is being cancelled, so the slot's stubbornness needs one of its own.
                asyncio.get_running_loop().call_later(faults.ignore_abort_ms / 1000, self._release, slot)
                slot = Slot(-1)
            raise
        finally:
            if slot.number >= 0:
                self._release(slot)

    def _release(self, slot: Slot) -> None:
        slot.busy = False
        self._free.release()

    async def _speak(
        self, stream: _Stream, params: dict[str, Any], output: engine_text.Output, prompt_tokens: int, slot: Slot
    ) -> None:  # fmt: skip
        settings = self.settings
        stream.begin()
        if params.get("return_progress"):
            await stream.event(
                {"content": "", "tokens": [0], "stop": False, "tokens_predicted": 0, "prompt_progress": {}}
            )
        prefill_s = prompt_tokens / settings.prefill_tokens_per_s + stream.faults.first_token_delay_ms / 1000
        if stream.faults.first_token_delay_ms:
            self.struck("slow_first_token")
        await asyncio.sleep(prefill_s)
        self._prompt_tokens += prompt_tokens
        said = 0
        held = ""
        for piece in output.pieces:
            await asyncio.sleep(piece.tokens / settings.tokens_per_s)
            said += piece.tokens
            self._predicted_tokens += piece.tokens
            slot.prompt_tokens += piece.tokens
            held += piece.text
            # A real engine holds text back while it may be the beginning of a stop word, and shows several pieces at once.
            hold = self._cuts.random() < 0.15
            event = {"index": 0, "content": "" if hold else held, "tokens": [said], "stop": False}
            await stream.event(event | {"tokens_predicted": said, "tokens_evaluated": prompt_tokens}, said)
            held = held if hold else ""
        if held:
            await stream.event({"content": held, "stop": False, "tokens_predicted": said}, said)
        decode_ms = 1000 * output.tokens / settings.tokens_per_s
        await stream.last(
            {
                "content": "", "stop": True, "stop_type": output.stop_type, "stopping_word": output.stopping_word,
                "tokens_predicted": output.tokens, "tokens_evaluated": prompt_tokens, "truncated": False,
                "timings": {
                    "cache_n": 0, "prompt_n": prompt_tokens, "prompt_ms": prefill_s * 1000,
                    "predicted_n": output.tokens, "predicted_ms": decode_ms,
                },
            }
        )  # fmt: skip


class _Stream:
    """Chunked server-sent events, with faults at the token where they are due."""

    def __init__(
        self, writer: asyncio.StreamWriter, faults: Faults, cuts: Random, struck: Callable[[str], None]
    ) -> None:
        self.faults = faults
        self._struck = struck
        self._writer = writer
        self._cuts = cuts

    def begin(self) -> None:
        """Send the head."""
        if self.faults.split_frames:
            self._struck("split_frames")
        self._writer.write(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def event(self, fields: dict[str, object], said: int = 0) -> None:
        """Send one event, or what a fault makes of it."""
        faults = self.faults
        data = json.dumps(fields, ensure_ascii=False).encode()
        if _due(faults.exit_after, said):
            os._exit(faults.exit_code)
        for after, name in (
            (faults.silent_after, "silence"),
            (faults.eof_after, "early_eof"),
            (faults.error_after, "engine_error"),
            (faults.broken_utf8_after, "broken_utf8"),
            (faults.broken_json_after, "broken_json"),
        ):
            if _due(after, said):
                self._struck(name)
        if _due(faults.silent_after, said):
            await asyncio.Event().wait()
        if _due(faults.eof_after, said):
            self._writer.transport.abort()
            raise ConnectionResetError
        if _due(faults.error_after, said):
            await self._chunk(b'data: {"error":{"code":500,"message":"simulated fault","type":"server_error"}}\n\n')
            await asyncio.Event().wait()
        if _due(faults.broken_utf8_after, said):
            data = data.replace(b'"content": "', b'"content": "\xf0\x9f\x98')
        if _due(faults.broken_json_after, said):
            data = data[: len(data) // 2]
        await self._chunk(b"data: " + data + b"\n\n")

    async def last(self, fields: dict[str, object]) -> None:
        """Send the last event, and complete the response."""
        faults = self.faults
        await self.event(fields)
        if faults.double_close:
            self._struck("double_close")
            await self.event(fields)
        if faults.late_close_ms:
            self._struck("late_close")
            await asyncio.sleep(faults.late_close_ms / 1000)
        await self._write(b"0\r\n\r\n")

    async def _chunk(self, data: bytes) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _write(self, data: bytes) -> None:
        while self.faults.split_frames and data:
            size = self._cuts.randint(1, 7)
            self._writer.write(data[:size])
            await self._writer.drain()
            await asyncio.sleep(0)
            data = data[size:]
        self._writer.write(data)
        await self._writer.drain()


def _due(after: int, said: int) -> bool:
    return 0 < after <= said


def _error(code: int, message: str) -> dict[str, object]:
    kind = "invalid_request_error" if code == 400 else "server_error"
    return {"error": {"code": code, "message": message, "type": kind}}


def _answer(writer: asyncio.StreamWriter, status: int, body: object, content_type: str = "application/json") -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    writer.write(
        f"HTTP/1.1 {status} Simulated\r\nServer: llama.cpp\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
