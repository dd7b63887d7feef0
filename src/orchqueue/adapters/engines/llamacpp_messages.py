"""What llama.cpp's server says, as types; fields that we do not read do not exist here."""

from __future__ import annotations

from typing import Literal

import msgspec


class Timings(msgspec.Struct, frozen=True, gc=False):
    """What the engine measured. Units: milliseconds and tokens; `cache_n` prompt tokens were not computed anew."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """What is inside an `error` object."""

    code: int | str = 500
    message: str = ""


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of `/completion`; the last one has `stop` and the counts."""

    content: str = ""
    stop: bool = False
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    stop_type: str = ""
    timings: Timings | None = None
    error: ErrorBody | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A refused request."""

    error: ErrorBody = ErrorBody()


class GenerationSettings(msgspec.Struct, frozen=True):
    """Defaults of a slot."""

    n_ctx: int = 0


class Props(msgspec.Struct, frozen=True):
    """Answer of `/props`."""

    total_slots: int = 1
    default_generation_settings: GenerationSettings = GenerationSettings()
    model_path: str = ""
    chat_template: str = ""
    build_info: str = ""
    simulated: bool = False


class SlotParams(msgspec.Struct, frozen=True, gc=False):
    """What a slot runs with."""

    mirostat_tau: float = -1.0


class Slot(msgspec.Struct, frozen=True, gc=False):
    """One entry of `/slots`."""

    is_processing: bool = False
    n_ctx: int = 0
    n_prompt_tokens: int = 0
    params: SlotParams | None = None


class Rendered(msgspec.Struct, frozen=True):
    """Answer of `/apply-template`."""

    prompt: str


class Tokenized(msgspec.Struct, frozen=True):
    """Answer of `/tokenize`, its list left as it came: only its length is wanted, and it may be long."""

    tokens: msgspec.Raw

    @property
    def count(self) -> int:
        """Count the tokens."""
        text = bytes(self.tokens).strip(b"[] \t\r\n")
        return text.count(b",") + 1 if text else 0


def finish_reason_of(event: StreamEvent) -> Literal["stop", "length"]:
    """Say why the engine ended."""
    return "length" if event.stop_type == "limit" else "stop"


def error_status(error: ErrorBody) -> int:
    """Give the HTTP status that an error object names, 500 where it names none."""
    return error.code if isinstance(error.code, int) else 500


def explain(status: int, body: bytes) -> str:
    """Put an error answer into one short line."""
    try:
        message = msgspec.json.decode(body, type=ErrorAnswer).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = body[:200].decode("utf-8", "replace")
    return f"engine answered {status}: {message[:500]}"
