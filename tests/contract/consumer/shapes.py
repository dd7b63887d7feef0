"""The forms that answers have: an example with the rule that any right answer fits."""

from __future__ import annotations

from pact import match
from pact.match import AbstractMatcher

from tests.unit.client.scripted_server import end_data, frame, position_of, transcript
from tests.unit.client.scripted_server import envelope as envelope_example

TASK_ID = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
OTHER_TASK_ID = "11111111-2222-4333-8444-555555555555"
SESSION_ID = "6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21"
POOL_ID = "default"
TEXTS = ("Because", " blue", " light scatters.")
WHOLE = "".join(TEXTS)

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
HEX_64 = "[0-9a-f]{64}"
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_LINES = r"(?:(?::[^\n]*|(?:id|event|data): [^\n]*)?\n)+$"
_ERROR = r'(?=[\s\S]*event: error\n[\s\S]*"code":\s?"{code}")(?![\s\S]*event: end\n)'
# Any order and any number of comments, but started, text and an end must be there, and nothing but event-stream lines.
STREAM = r"^(?=[\s\S]*event: started\n)(?=[\s\S]*event: token\n)(?=[\s\S]*event: end\n)" + _LINES
MEASURED_STREAM = r"^(?=[\s\S]*event: metrics\n)" + STREAM.removeprefix("^")
REST = r"^(?=[\s\S]*event: token\n)(?=[\s\S]*event: end\n)(?![\s\S]*event: started\n)" + _LINES
FAILED_AFTER_TEXT = r"^(?=[\s\S]*event: started\n)(?=[\s\S]*event: token\n)" + _ERROR + _LINES
FAILED_WITHOUT_TEXT = r"^(?![\s\S]*event: token\n)" + _ERROR + _LINES

CORRELATION: dict[str, str | AbstractMatcher[str]] = {
    "X-Correlation-Id": match.regex("c-1", regex="^[A-Za-z0-9._:-]{1,128}$")
}
BACKOFF: dict[str, str | AbstractMatcher[str]] = {
    "Retry-After": match.regex("3", regex="^[1-9][0-9]*$"),
    "X-Backoff-Ms": match.regex("2400", regex="^[1-9][0-9]*$"),
}
STREAM_HEADERS: dict[str, str | AbstractMatcher[str]] = {
    "Content-Type": match.regex("text/event-stream", regex="^text/event-stream(;.*)?$"),
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Task-Id": TASK_ID,
}


def one_of(example: str, *others: str) -> object:
    """Match any of these words."""
    return match.regex(example, regex=f"^({'|'.join((example, *others))})$")


def envelope(code: str, message: str, *, retriable: bool, **more: object) -> dict[str, object]:
    """Match an error envelope of this code."""
    return {
        "code": code,
        "message": match.regex(message, regex="^[\\s\\S]+$"),
        "retriable": retriable,
        "correlation_id": match.regex("c-1", regex="^[A-Za-z0-9._:-]{1,128}$"),
        **more,
    }


def admission(*, seed: object, determinism: object) -> dict[str, object]:
    """Match the body of a 202."""
    path = f"/v1/tasks/{TASK_ID}"
    return {
        "task_id": TASK_ID,
        "queue_position": match.integer(3),
        "predicted_start_ms": match.integer(1840),
        "predicted_end_ms": match.integer(4390),
        "backoff_ms": 0,
        "seed": seed,
        "determinism": determinism,
        "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
        "links": {"self": path, "stream": f"{path}/stream", "cancel": f"{path}/cancel"},
        "basis": one_of("measured", "selftest", "none"),
        "prompt_tokens": match.integer(31),
        "prompt_tokens_basis": one_of("bytes_bound", "tokenizer", "estimate"),
    }


ADMISSION_HEADERS: dict[str, str | AbstractMatcher[str]] = {
    "Location": f"/v1/tasks/{TASK_ID}",
    "X-Task-Id": TASK_ID,
    "X-Queue-Position": match.regex("3", regex="^[0-9]+$"),
    "X-Queue-ETA-Ms": match.regex("1840", regex="^[0-9]+$"),
}


def receipt() -> dict[str, object]:
    """Match a receipt."""
    example = end_data(WHOLE)["receipt"]
    assert isinstance(example, dict)
    return {
        **{name: match.like(value) for name, value in example.items()},
        "digest": match.regex(example["digest"], regex=f"^{HEX_64}$"),
        "params_digest": match.regex(example["params_digest"], regex=f"^{HEX_64}$"),
    }


def task_summary() -> dict[str, object]:
    """Match a task that succeeded, without its text."""
    return {
        "task_id": TASK_ID,
        "state": "succeeded",
        "priority": one_of("interactive", "batch"),
        "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
        "created_at_ms": match.integer(1764000000000),
        "ended_at_ms": match.integer(1764000002620),
        "seed": match.integer(1001),
        "determinism": one_of("strict", "best_effort"),
        "sampler_profile_version": match.like("v1"),
        "tokens_out": match.integer(7),
        "finish_reason": one_of("stop", "length"),
        "receipt": receipt(),
    }


def whole_stream() -> str:
    """Make an example of a stream read from its start."""
    return ": waiting\n\n" + transcript(TEXTS).decode()


def rest_of_stream() -> str:
    """Make an example of a stream that goes on after the first token."""
    return transcript(TEXTS, after_bytes=len(TEXTS[0])).decode()


def measured_stream() -> str:
    """Make an example of a stream that ran long enough to tell how it goes."""
    whole = transcript(TEXTS)
    before_end = whole.index(b"id: " + f"{position_of(WHOLE)}:end".encode())
    figures = {"tokens_per_s": 3.5, "kv_warmth": False, "queue_depth": 0}
    return (whole[:before_end] + frame("metrics", figures) + whole[before_end:]).decode()


def failed_stream(code: str, message: str, texts: tuple[str, ...] = ()) -> str:
    """Make an example of the stream of a task that failed after these texts; with none it was never started."""
    data = envelope_example(code, message, task_id=TASK_ID, pool_id=POOL_ID)
    before = transcript(texts, with_end=False) if texts else b""
    return (before + frame("error", data, f"{position_of(''.join(texts))}:end")).decode()


def canceled_stream() -> str:
    """Make an example of the stream of a task that was canceled while it waited."""
    return frame("end", end_data("", canceled=True), f"{position_of('')}:end").decode()
