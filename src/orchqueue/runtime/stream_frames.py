"""The frozen framing of a task's stream: what every event looks like on the wire.

An event is `id:`, `event:` and `data:` in this order, each on one line. The id of a position is `<b>:<c>`: b UTF-8 bytes
of text up to and including the event, c their crc32 in eight hex digits; a terminal event's id ends in `:end`.

Req: ORCH-2002
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from orchqueue.core.effects import EmitMetrics, EmitStarted
from orchqueue.core.outcome import CANCELED, MEANINGS, ErrorCode, Outcome
from orchqueue.core.records import Ended, Receipt
from orchqueue.core.request import FinishReason

HEARTBEAT = b": hb\n\n"
POSITION = re.compile(r"(0|[1-9][0-9]{0,15}):([0-9a-f]{8})(:end)?")

_encode = msgspec.json.Encoder().encode


class Position(msgspec.Struct, frozen=True):
    """How far a reader has read. `ended`: it saw the terminal event.

    Units: `text_bytes` counts UTF-8 bytes of text.
    Req: ORCH-4093
    """

    text_bytes: int
    crc: int
    ended: bool = False

    @property
    def event_id(self) -> str:
        """Spell the position as an event id."""
        return f"{self.text_bytes}:{self.crc:08x}" + (":end" if self.ended else "")


def parse_position(event_id: str) -> Position | None:
    """Read an event id; None when it is not one.

    >>> parse_position("8:1f0c52aa")
    Position(text_bytes=8, crc=520901290, ended=False)
    >>> parse_position("8:1F0C52AA") is None
    True
    """
    match = POSITION.fullmatch(event_id)
    if match is None:
        return None
    return Position(int(match[1]), int(match[2], 16), match[3] is not None)


class ReceiptView(msgspec.Struct, frozen=True):
    """A receipt as clients see it.

    Shape: `digest` is the sha256 hex of the output's UTF-8 bytes. `durable` is false only while the journal stalls;
    `continued` where an engine went on from the text of another.
    """

    digest: str
    seed: int
    params_digest: str
    sampler_profile_version: str
    engine: str
    engine_version: str
    model_digest: str
    attempts: int
    durable: bool = True
    continued: bool | UnsetType = UNSET


class StartedData(msgspec.Struct, frozen=True):
    """Data of a `started` event."""

    queue_position: int
    predicted_start_ms: int
    seed: int
    pool_id: str
    replica_id: str
    engine_version: str
    model_digest: str
    determinism: str
    queue_time_ms: int


class EndData(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of an `end` event."""

    tokens_out: int
    decode_ms: int
    finish_reason: FinishReason
    canceled: bool
    receipt: ReceiptView | None = None
    result: msgspec.Raw | None = None


class ErrorData(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of an `error` event: the one envelope."""

    code: ErrorCode
    message: str
    retriable: bool
    correlation_id: str
    engine: str | None = None
    pool_id: str | None = None
    task_id: str | None = None
    retry_after_ms: int | None = None
    policy_label: str | None = None


def event_frame(event: Literal["started", "end", "error"], event_id: str, data: msgspec.Struct) -> bytes:
    """Encode one event.

    Req: ORCH-4090
    """
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event.encode(), _encode(data))


def token_frame(text_bytes: int, crc: int, text: str, index: int) -> bytes:
    """Encode one `token` event; `text_bytes` and `crc` are the position after it.

    Cost: once per event and task, whatever the number of readers.
    Req: ORCH-4092
    """
    return b'id: %d:%08x\nevent: token\ndata: {"t":%b,"i":%d}\n\n' % (text_bytes, crc, _encode(text), index)


def metrics_frame(effect: EmitMetrics) -> bytes:
    """Encode a `metrics` event: it has no id and leaves out what is not known."""
    known = {
        name: value
        for name, value in (
            ("queue_position", effect.queue_position),
            ("predicted_start_ms", effect.predicted_start_ms),
            ("predicted_end_ms", effect.predicted_end_ms),
            ("tokens_per_s", effect.tokens_per_s),
            ("kv_warmth", effect.kv_warmth),
            ("queue_depth", effect.queue_depth),
            ("on_time_probability", effect.on_time_probability),
        )
        if value is not None
    }
    return b"event: metrics\ndata: %b\n\n" % _encode(known)


def started_frame(effect: EmitStarted) -> bytes:
    """Encode the `started` event, whose id is the position before any text.

    Req: ORCH-4091
    """
    data = StartedData(
        queue_position=effect.queue_position,
        predicted_start_ms=effect.predicted_start_ms,
        seed=effect.seed,
        pool_id=effect.pool_id,
        replica_id=effect.replica_id,
        engine_version=effect.engine_version,
        model_digest=effect.model_digest,
        determinism=effect.determinism,
        queue_time_ms=effect.queue_time_ms,
    )
    return event_frame("started", Position(0, 0).event_id, data)


def receipt_view(receipt: Receipt, text: bytes | bytearray, *, durable: bool) -> ReceiptView:
    """Complete a receipt with the digest of the text.

    Req: ORCH-4098
    """
    return ReceiptView(
        digest=sha256(text).hexdigest(),
        seed=receipt.seed,
        params_digest=receipt.params_digest,
        sampler_profile_version=receipt.sampler_profile_version,
        engine=receipt.engine,
        engine_version=receipt.engine_version,
        model_digest=receipt.model_digest,
        attempts=receipt.attempts,
        durable=durable,
        continued=receipt.continued or UNSET,
    )


def error_data(ended: Ended, correlation_id: str) -> ErrorData:
    """Say how a task failed.

    Req: ORCH-4099
    """
    meaning = MEANINGS[ended.outcome]
    return ErrorData(
        code=meaning.code or "INTERNAL",
        message=ended.message or f"task {ended.task_id}: {ended.outcome.value}",
        retriable=meaning.retriable,
        engine=ended.engine,
        pool_id=ended.pool_id,
        task_id=ended.task_id,
        retry_after_ms=ended.retry_after_ms,
        policy_label=meaning.policy_label,
        correlation_id=correlation_id,
    )


def is_error(outcome: Outcome) -> bool:
    """Tell whether an outcome ends a stream with `error` rather than `end`."""
    return MEANINGS[outcome].code is not None


def terminal_frame(
    ended: Ended, position: Position, receipt: ReceiptView | None, correlation_id: str, result: bytes = b""
) -> bytes:
    """Encode the one terminal event. `result`: the JSON that an embedding or rerank task made.

    Req: ORCH-4059, ORCH-4097, ORCH-4111
    """
    if is_error(ended.outcome):
        return event_frame("error", position.event_id, error_data(ended, correlation_id))
    canceled = ended.outcome in CANCELED
    reason: FinishReason = "canceled" if canceled else ended.finish_reason or "stop"
    made = msgspec.Raw(result) if result and not canceled else None
    data = EndData(ended.tokens_out, ended.decode_ms, reason, canceled, receipt, made)
    return event_frame("end", position.event_id, data)


def diverged_frame(task_id: str, wanted: Position, correlation_id: str) -> bytes:
    """Encode the error for one reader whose bytes turned out not to be ours."""
    data = ErrorData(
        code="WORKER_RESET",
        message=(
            f"task {task_id}: the text after a restart differs from what this reader had at byte {wanted.text_bytes}; "
            "read the stream again from its start"
        ),
        retriable=True,
        task_id=task_id,
        correlation_id=correlation_id,
    )
    return event_frame("error", Position(wanted.text_bytes, wanted.crc, ended=True).event_id, data)


def as_chunk(frames: bytes) -> bytes:
    """Frame bytes as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(frames), frames)
