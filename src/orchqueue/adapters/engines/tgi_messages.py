"""What TGI's router says, as types; fields that we do not read do not exist here."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchqueue.adapters.engines.reading import failure_of
from orchqueue.core.events import AttemptFailure

STOP_SEQUENCES_MAX = 4
"""How many stop sequences a router takes where nobody says otherwise."""


class Info(msgspec.Struct, frozen=True):
    """Answer of `/info`. Older routers name the longest prompt `max_input_length`.

    Units: tokens; 0 where it is not told.
    """

    model_id: str
    version: str = "unknown"
    model_sha: str | None = None
    sha: str | None = None
    max_total_tokens: int = 0
    max_input_tokens: int = 0
    max_input_length: int = 0
    max_concurrent_requests: int = 0
    max_stop_sequences: int = STOP_SEQUENCES_MAX

    @property
    def ctx(self) -> int:
        """Give what a task may have in all, where its prompt may take all of it but one token."""
        longest = self.max_input_tokens or self.max_input_length
        return min(self.max_total_tokens, longest + 1) if longest else self.max_total_tokens

    @property
    def engine_version(self) -> str:
        """Name the build: a version alone may be built from several states of the source."""
        return f"tgi-{self.version}" + (f"+{self.sha[:8]}" if self.sha else "")


class Token(msgspec.Struct, frozen=True, gc=False):
    """One token of a stream; the text of a special one is no part of the answer."""

    text: str = ""
    special: bool = False


class Details(msgspec.Struct, frozen=True, gc=False):
    """What the last event of a stream adds."""

    finish_reason: str = ""
    generated_tokens: int = 0
    input_length: int = 0


class StreamEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of `/generate_stream`: a token, or an error."""

    token: Token | None = None
    details: Details | None = None
    error: str | None = None
    error_type: str = ""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A refused request; what the HTTP framework itself refuses is plain text instead."""

    error: str
    error_type: str = ""


class PromptToken(msgspec.Struct, frozen=True, gc=False):
    """One token of a prompt; `start` and `stop` count characters, and are equal where the tokenizer added it."""

    id: int
    start: int = 0
    stop: int = 0


class ChatTokenized(msgspec.Struct, frozen=True):
    """Answer of `/chat_tokenize`; nothing was added to the template's text before it was cut into tokens."""

    tokenize_response: list[PromptToken]
    templated_text: str


_FAILURES: Mapping[str, AttemptFailure] = {
    "validation": "rejected",
    "template_error": "rejected",
    "missing_template_variable": "rejected",
    "tool_error": "rejected",
    "overloaded": "overloaded",
}


def failure_of_type(error_type: str) -> AttemptFailure:
    """Say what an error inside of a stream means; one whose kind is unknown may work elsewhere.

    Req: ORCH-4216, ORCH-4452
    """
    return _FAILURES.get(error_type, "engine_error")


def failure_of_answer(status: int, body: bytes) -> AttemptFailure:
    """Say what a refusal means: by the kind of its error, else by its status."""
    if status == 200:
        return "engine_error"
    return _FAILURES.get(_read(body).error_type) or failure_of(status)


def explain(status: int, body: bytes) -> str:
    """Put an error answer into one short line."""
    return f"engine answered {status}: {_read(body).error[:500]}"


def _read(body: bytes) -> ErrorAnswer:
    try:
        return msgspec.json.decode(body, type=ErrorAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ErrorAnswer(body[:200].decode("utf-8", "replace"))
