"""What the real vLLM 0.32.0 said, request by request: long metrics cut down to the lines that matter, else as it came.

`python -m tests.conformance.engine.recorded_vllm URL` asks a running server anew what it asked, but for those of `SPECIAL`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import httpx

FOLDER = Path(__file__).parent / "recorded" / "vllm"
SPECIAL = frozenset({"no_key", "overflow", "timed", "dead", "metrics", "metrics_caching"})
"""They want a server with a key, with a bound on its queue, with timings, one that dies, or cut metrics."""


class Recorded(NamedTuple):
    """One exchange."""

    method: str
    path: str
    request: Any
    status: int
    content_type: str | None
    body: str

    @property
    def content(self) -> bytes | None:
        """Give the request's body; one that was no JSON is kept as text."""
        if self.request is None or isinstance(self.request, str):
            return self.request.encode() if self.request else None
        return json.dumps(self.request).encode()

    @property
    def events(self) -> list[Any]:
        """Give the events of a stream; `[DONE]` stays text."""
        found = [line.removeprefix("data: ") for line in self.body.split("\n") if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in found]


def names() -> list[str]:
    """List what is recorded."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Recorded:
    """Read one exchange."""
    fields = json.loads((FOLDER / f"{name}.json").read_text())
    return Recorded(**fields | {"body": "\n".join(fields["body"])})


def form(value: Any) -> Any:
    """Reduce a value to the names of its members; nobody reads a model's permissions."""
    if isinstance(value, dict):
        return {name: form(member) for name, member in value.items() if name != "permission"}
    return [form(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def form_of(one: Recorded) -> Any:
    """Reduce an answer to what the simulated engine has to say alike."""
    if not one.body:
        return None
    kind = (one.content_type or "").partition(";")[0]
    if kind == "text/event-stream":
        return kind, [event if event == "[DONE]" else form(event) for event in (one.events[0], *one.events[-2:])]
    return kind, form(json.loads(one.body)) if kind == "application/json" else one.body


async def ask(url: str, one: Recorded) -> Recorded:
    """Ask a server the same."""
    headers = {"Content-Type": "application/json"} if one.content is not None else {}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        answer = await client.request(one.method, url + one.path, content=one.content, headers=headers)
    return one._replace(status=answer.status_code, content_type=answer.headers.get("content-type"), body=answer.text)


async def record(url: str) -> None:
    """Write anew what a server with the usual flags says."""
    for name in names():
        if name not in SPECIAL:
            told = (await ask(url, load(name)))._asdict()
            text = json.dumps(told | {"body": told["body"].split("\n")}, indent=1, ensure_ascii=False)
            (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
