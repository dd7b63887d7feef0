"""What Triton says, as types, and what its errors mean; fields that we do not read do not exist here.

Req: ORCH-4222
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, failure_of
from orchqueue.core.events import AttemptFailure

DECODERS = ("tensorrtllm",)
"""Backends that decode, in a model that is made of several."""


class ServerInfo(msgspec.Struct, frozen=True):
    """Answer of `/v2`."""

    name: str
    version: str


class ErrorBody(msgspec.Struct, frozen=True):
    """An error; the server's own and a model's look alike."""

    error: str


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """One response of a model. The counts are there where they were asked for, that of the output for this response alone."""

    text_output: str = ""
    error: str | None = None
    num_input_tokens: int = 0
    num_output_tokens: int = 0


class Named(msgspec.Struct, frozen=True):
    """A tensor."""

    name: str


class Parameter(msgspec.Struct, frozen=True):
    """A parameter's value."""

    string_value: str = ""


class Step(msgspec.Struct, frozen=True):
    """A model inside an ensemble."""

    model_name: str


class Ensemble(msgspec.Struct, frozen=True):
    """What an ensemble is made of."""

    step: tuple[Step, ...] = ()


class Policy(msgspec.Struct, frozen=True):
    """How a model answers."""

    decoupled: bool = False


class ModelConfig(msgspec.Struct, frozen=True):
    """Answer of `/v2/models/NAME/config`."""

    name: str
    platform: str = ""
    backend: str = ""
    inputs: tuple[Named, ...] = msgspec.field(name="input", default=())
    outputs: tuple[Named, ...] = msgspec.field(name="output", default=())
    parameters: Mapping[str, Parameter] = msgspec.field(default_factory=dict)
    ensemble_scheduling: Ensemble = Ensemble()
    model_transaction_policy: Policy = Policy()

    @property
    def settings(self) -> dict[str, str]:
        """Give the parameters that have a value; a template's placeholder that nobody filled is none."""
        said = {name: parameter.string_value for name, parameter in self.parameters.items()}
        return {name: value for name, value in said.items() if value and not value.startswith("${")}

    @property
    def parts(self) -> tuple[str, ...]:
        """Name the models that it is made of."""
        steps = tuple(step.model_name for step in self.ensemble_scheduling.step)
        named = self.settings.get("tensorrt_llm_model_name")
        return (*steps, named) if named else steps


class ServedModel(msgspec.Struct, frozen=True):
    """A model and what it is made of. `settings`: parameters of all of them, its own first."""

    name: str
    parts: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str]
    decoupled: bool
    backend: str
    settings: Mapping[str, str]

    def says(self, setting: str) -> bool:
        """Tell whether a parameter is on."""
        return self.settings.get(setting, "").lower() in {"1", "true"}

    def number(self, setting: str) -> int:
        """Read a parameter as a whole number, 0 where it is none."""
        said = self.settings.get(setting, "")
        return int(said) if said.isascii() and said.isdigit() else 0

    def counts(self, what: str) -> bool:
        """Tell whether it counts tokens when asked."""
        return f"return_{what}" in self.inputs and what in self.outputs

    def first_input(self, *names: str) -> str | None:
        """Give the first of these inputs that it declares: some were renamed between releases."""
        return next((name for name in names if name in self.inputs), None)


def combine(configs: Iterable[ModelConfig]) -> ServedModel:
    """Make one of a model's configuration, which comes first, and those of its parts."""
    whole, *parts = configs
    backends = [config.backend for config in (whole, *parts) if config.backend]
    decoding = [backend for backend in backends if backend in DECODERS]
    settings: dict[str, str] = {}
    for config in (*reversed(parts), whole):
        settings |= config.settings
    return ServedModel(
        name=whole.name,
        parts=frozenset(config.name for config in (whole, *parts)),
        inputs=frozenset(tensor.name for tensor in whole.inputs),
        outputs=frozenset(tensor.name for tensor in whole.outputs),
        decoupled=whole.model_transaction_policy.decoupled,
        backend=(decoding or backends or [whole.platform or "unknown"])[0],
        settings=settings,
    )


# A model's errors come with 400 whatever they mean, so their words have to do. TensorRT-LLM's and its Triton models' own.
_MEANINGS: tuple[tuple[str, AttemptFailure], ...] = (
    (r"queue size|queue is full|too many requests", "overloaded"),
    (r"stub process .* is not healthy", "lost"),
    (r"exceed\w* .*(length|context|max_|maximum)|is longer than", "rejected"),
    (r"must be|is required|is not supported|grammar|schema|guided", "rejected"),
    (r"unable to parse 'data'|failed to parse the request", "rejected"),
)


def meaning_of(message: str) -> AttemptFailure | None:
    """Say what an error means by its words; None where they tell nothing.

    >>> meaning_of("Prompt length (5000) exceeds maximum input length (4096)")
    'rejected'
    """
    return next((failure for words, failure in _MEANINGS if re.search(words, message, re.IGNORECASE)), None)


def model_failed(message: str) -> Broken:
    """Read an error of the model itself."""
    return Broken(meaning_of(message) or "engine_error", f"the model reported: {message[:500]}")


def refused(answer: Answer) -> Broken:
    """Read an answer that is no stream.

    1. An error in the frame of an event is the model's: its status is always 400.
    2. The server's own has a status that means what it says, except where it could not read the request: that is a 500.
    3. With 200 there should have been a stream.

    Req: ORCH-4216, ORCH-4461
    """
    message, framed = error_in(answer.body)
    detail = f"triton answered {answer.status}: {message[:500]}"
    meant = meaning_of(message)
    if framed or answer.status == 200:
        return Broken(meant or "engine_error", detail)
    return Broken(meant if answer.status == 500 and meant == "rejected" else failure_of(answer.status), detail)


def error_in(body: bytes) -> tuple[str, bool]:
    """Find the error in a body, and tell whether it was framed as an event.

    >>> error_in(b'data: {"error":"it broke"}')
    ('it broke', True)
    """
    text = body.strip()
    framed = text.startswith(b"data:")
    try:
        return msgspec.json.decode(text.removeprefix(b"data:"), type=ErrorBody).error, framed
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode("utf-8", "replace"), framed
