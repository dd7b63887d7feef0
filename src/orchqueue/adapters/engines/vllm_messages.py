"""What vLLM's server says, as types; fields that we do not read do not exist here."""

from __future__ import annotations

import re

import msgspec

_GAUGE = re.compile(rb"^vllm:(num_requests_running|num_requests_waiting)\{[^}\n]*\} (\S+)", re.MULTILINE)
_KV_USAGE = re.compile(rb"^vllm:(?:kv|gpu)_cache_usage_perc\{[^}\n]*\} (\S+)", re.MULTILINE)
_CACHING = re.compile(rb'^vllm:cache_config_info\{[^}\n]*enable_prefix_caching="(\w+)"', re.MULTILINE)
_DEAD = "EngineCore"


class Details(msgspec.Struct, frozen=True, gc=False):
    """What is told of the prompt where the server was started to tell it."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The counts so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A piece of text. `stop_reason`: the stop string or the token that ended it; None for the model's own end."""

    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """What is inside an `error` object."""

    message: str = ""
    code: int | str | None = None


class Timed(msgspec.Struct, frozen=True, gc=False):
    """What the engine measured, where it was started to tell it. Units: milliseconds."""

    time_to_first_token_ms: float | None = None
    queue_time_ms: float | None = None
    generation_time_ms: float | None = None


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of `/v1/completions`; the last one before `[DONE]` has no choices, but the usage."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: ErrorBody | str | None = None
    metrics: Timed | None = None


class Answered(msgspec.Struct, frozen=True):
    """A refused request: `error` is text where the key is missing, `detail` stands alone where there is no such route."""

    error: ErrorBody | str | None = None
    detail: str | None = None


class Version(msgspec.Struct, frozen=True):
    """Answer of `/version`."""

    version: str


class Card(msgspec.Struct, frozen=True):
    """One model of `/v1/models`. `parent`: whose adapter it is; None for the model itself."""

    id: str
    root: str = ""
    parent: str | None = None
    max_model_len: int | None = None


class Models(msgspec.Struct, frozen=True):
    """Answer of `/v1/models`."""

    data: tuple[Card, ...]


class Tokenized(msgspec.Struct, frozen=True):
    """Answer of `/tokenize`."""

    count: int
    tokens: list[int]


class Detokenized(msgspec.Struct, frozen=True):
    """Answer of `/detokenize`."""

    prompt: str


class Figures(msgspec.Struct, frozen=True):
    """What `/metrics` says: requests that run and wait, and how full the KV memory is; None where it does not say it."""

    running: int | None = None
    waiting: int | None = None
    kv_usage_ratio: float | None = None
    prefix_caching: bool | None = None

    @property
    def held(self) -> int | None:
        """Count the requests that the engine holds."""
        if self.running is None or self.waiting is None:
            return None
        return self.running + self.waiting


def read_figures(body: bytes) -> Figures:
    r"""Read the few lines that we need of many; figures of several engines in one server are put together.

    Errors: ValueError where a value is no number.
    Cost: one search through some 60 kB, asked again while an abort is confirmed.

    >>> read_figures(b'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n').held
    3
    """
    held: dict[bytes, int] = {}
    for name, value in _GAUGE.findall(body):
        held[name] = held.get(name, 0) + int(float(value))
    used = [float(value) for value in _KV_USAGE.findall(body)]
    caching = set(_CACHING.findall(body))
    return Figures(
        running=held.get(b"num_requests_running"),
        waiting=held.get(b"num_requests_waiting"),
        kv_usage_ratio=max(used) if used else None,
        prefix_caching=b"True" in caching if caching <= {b"True", b"False"} and caching else None,
    )


def error_text(error: ErrorBody | str) -> str:
    """Give the message of an error."""
    return (error if isinstance(error, str) else error.message)[:500]


def is_dead(message: str) -> bool:
    """Tell whether an error says that the engine behind the server is gone; the server ends soon after it."""
    return message.startswith(_DEAD)


def explain(status: int, body: bytes) -> str:
    """Put an error answer into one short line."""
    return f"engine answered {status}: {refused_text(body)}"


def refused_text(body: bytes) -> str:
    """Give the words of an error answer, whichever of its forms it has.

    >>> refused_text(b'{"error":"Unauthorized"}'), refused_text(b'{"detail":"Not Found"}')
    ('Unauthorized', 'Not Found')
    """
    try:
        answered = msgspec.json.decode(body, type=Answered)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answered = Answered()
    if answered.error is not None:
        return error_text(answered.error)
    return (answered.detail or body.decode("utf-8", "replace"))[:500]
