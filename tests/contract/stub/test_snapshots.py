"""What a client really gets from the stub, as files that people review.

Write them anew: `python -m pytest tests/contract/stub/test_snapshots.py --snapshot-update`.
"""

from __future__ import annotations

import httpx
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from orchqueue.client.sse import SseParser
from tests.contract.consumer.shapes import SESSION_ID, TASK_ID
from tests.contract.stub.stub_process import StubProcess

pytestmark = pytest.mark.req("ORCH-4041")
HEADERS = {"X-Correlation-Id": "snapshot"}


class Transcript(SingleFileSnapshotExtension):
    """A stream as it went over the wire, readable in a file of its own."""

    _write_mode = WriteMode.TEXT
    file_extension = "sse"


def shown(answer: httpx.Response) -> dict[str, object]:
    """Show an answer without what differs each time."""
    headers = {name: value for name, value in sorted(answer.headers.items()) if name not in {"date", "content-length"}}
    return {"status": answer.status_code, "headers": headers, "body": answer.json()}


def test_admission(stub: StubProcess, snapshot: SnapshotAssertion) -> None:
    """A task is admitted: its id, place, predicted start, seed and links, in body and headers."""
    work = {
        "task_id": TASK_ID,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "seed": 1001,
        "determinism": "strict",
        "sampler_profile_version": "v1",
        "sampling": {"stop": ["\n\n"]},
        "max_tokens": 64,
    }
    answer = stub.http.post("/v1/tasks", json=work, headers=HEADERS)
    assert shown(answer) == snapshot(extension_class=JSONSnapshotExtension)


def test_session_info(stub: StubProcess, snapshot: SnapshotAssertion) -> None:
    """A session is looked at: how long it lives, its turns, what its context holds."""
    answer = stub.http.get(f"/v1/sessions/{SESSION_ID}", headers=HEADERS)
    assert shown(answer) == snapshot(extension_class=JSONSnapshotExtension)


def test_transcript(stub: StubProcess, snapshot: SnapshotAssertion) -> None:
    """A stream of five events: started, three tokens, end."""
    answer = stub.http.get(f"/v1/tasks/{TASK_ID}/stream", headers={**HEADERS, "Accept": "text/event-stream"})
    events = [event.event for event in SseParser().feed(answer.content)]
    assert events == ["started", "token", "token", "token", "end"]
    assert answer.text == snapshot(extension_class=Transcript)
