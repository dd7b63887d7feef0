"""How soon a canceled task's slot is free again, with the real embedded engine, and that no token follows the 204."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import perf_counter

import httpx
import msgspec

from benchmarks.figures import Report, command, quantile
from benchmarks.servers import Server, own_daemon

STORY = "Cancel 200 tasks in each phase (waiting, prefill, decode, just finished) of the embedded model."
POLL_S = 0.002
DEADLINE_S = 60.0
POOL = "smollm2"
LONG_PROMPT_WORDS = 420


class Canceled(msgspec.Struct):
    """One cancel. Units: milliseconds from sending it."""

    answer_ms: float
    free_ms: float


class Session:
    """A client of the embedded daemon."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S)
        self.random = random.Random(7)

    async def submit(self, words: int, max_tokens: int) -> str:
        """Post a task; its id."""
        prompt = " ".join(
            f"{self.random.choice(('red', 'blue', 'old', 'new'))} stone {number}" for number in range(words // 3)
        )
        body = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "sampling": {"ignore_eos": True},
            "on_disconnect": "continue",
        }
        answer = await self.http.post("/v1/tasks", json=body)
        assert answer.status_code == 202, answer.text
        task_id: str = answer.json()["task_id"]
        return task_id

    async def events(self, task_id: str) -> AsyncIterator[tuple[str, dict[str, object]]]:
        """Follow a task's stream."""
        name = ""
        async with self.http.stream("GET", f"/v1/tasks/{task_id}/stream") as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    yield name, json.loads(line[5:])

    async def slots_free(self) -> int:
        """Count the free slots as health shows them."""
        health = (await self.http.get(f"/v1/pools/{POOL}/health")).json()
        return sum(int(replica["slots_free"]) for replica in health["replicas"])

    async def text(self, task_id: str) -> str:
        """Read a task's text so far."""
        text: str = (await self.http.get(f"/v1/tasks/{task_id}")).json()["text"]
        return text

    async def until_free(self, slots: int) -> None:
        """Wait until so many slots are free."""
        deadline_s = perf_counter() + DEADLINE_S
        while await self.slots_free() < slots:
            assert perf_counter() < deadline_s, f"{slots} slots did not become free within {DEADLINE_S} s"
            await asyncio.sleep(POLL_S)

    async def cancel(self, task_id: str, slots: int) -> Canceled:
        """Cancel, and wait for the slot; no text may be added after the 204."""
        begun = perf_counter()
        answer = await self.http.post(f"/v1/tasks/{task_id}/cancel")
        answered = perf_counter()
        assert answer.status_code == 204, answer.text
        text_at_204 = await self.text(task_id)
        await self.until_free(slots)
        free = perf_counter()
        streamed = "".join([str(data["t"]) async for name, data in self.events(task_id) if name == "token"])
        assert streamed == text_at_204 == await self.text(task_id), "text was added after the 204"
        return Canceled((answered - begun) * 1e3, (free - begun) * 1e3)


async def in_waiting(session: Session, slots: int) -> Canceled:
    """Cancel a task that waits because every slot is taken."""
    while await session.slots_free():
        for _ in range(slots):
            await session.submit(3, 1_500)
        await asyncio.sleep(POLL_S)
    task_id = await session.submit(3, 8)
    canceled = await session.cancel(task_id, 0)
    state = (await session.http.get(f"/v1/tasks/{task_id}")).json()["state"]
    assert state == "canceled", state
    return canceled


async def in_prefill(session: Session, slots: int) -> Canceled:
    """Cancel a task that was started and still reads its prompt."""
    task_id = await session.submit(LONG_PROMPT_WORDS, 8)
    async for name, _ in session.events(task_id):
        assert name != "token", "the prompt was read before the cancel; make it longer"
        if name == "started":
            break
    await asyncio.sleep(session.random.random() * 0.2)
    return await session.cancel(task_id, slots)


async def in_decode(session: Session, slots: int) -> Canceled:
    """Cancel a task in the middle of its answer."""
    task_id = await session.submit(3, 400)
    tokens, wanted = 0, session.random.randint(1, 8)
    async for name, _ in session.events(task_id):
        tokens += name == "token"
        if tokens == wanted:
            break
    return await session.cancel(task_id, slots)


async def when_finished(session: Session, slots: int) -> Canceled:
    """Cancel a task right after its last event."""
    task_id = await session.submit(3, 4)
    async for name, _ in session.events(task_id):
        if name == "end":
            break
    return await session.cancel(task_id, slots)


async def clear(session: Session, slots: int) -> None:
    """Cancel whatever still runs."""
    for state in ("queued", "running"):
        page = (await session.http.get("/v1/tasks", params={"state": state})).json()
        for task in page["tasks"]:
            await session.http.post(f"/v1/tasks/{task['task_id']}/cancel")
    await session.until_free(slots)


async def all_phases(server: Server, times: int, report: Report) -> None:
    """Cancel in one phase after the other."""
    session = Session(f"http://127.0.0.1:{server.port}")
    phases: dict[str, Callable[[Session, int], Awaitable[Canceled]]] = {
        "waiting": in_waiting,
        "prefill": in_prefill,
        "decode": in_decode,
        "just finished": when_finished,
    }
    async with session.http:
        health = (await session.http.get(f"/v1/pools/{POOL}/health")).json()
        slots = sum(int(replica["slots_total"]) for replica in health["replicas"])
        await session.until_free(slots)
        for phase, act in phases.items():
            found = [await act(session, slots) for _ in range(times)]
            await clear(session, slots)
            report.add(f"{phase}: 204 p50", quantile([c.answer_ms for c in found], 0.5), "ms")
            report.add(f"{phase}: 204 p99", quantile([c.answer_ms for c in found], 0.99), "ms")
            if phase != "waiting":
                report.add(f"{phase}: slot free p50", quantile([c.free_ms for c in found], 0.5), "ms")
                report.add(f"{phase}: slot free p99", quantile([c.free_ms for c in found], 0.99), "ms")
            report.detail[phase] = [round(c.free_ms, 2) for c in found]
        report.add("tokens after a 204", 0, "of all cancels", "asserted for each")


def measure(quick: bool) -> Report:
    """Run the embedded daemon and cancel."""
    report = Report("cancel", quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command_line = [
            sys.executable,
            "-m",
            "orchqueue.daemon.main",
            "serve",
            "--port",
            "0",
            "--data-dir",
            str(folder / "data"),
        ]
        with own_daemon(command_line, folder, pinned=False) as server:
            asyncio.run(all_phases(server, 3 if quick else 200, report))
    return report


if __name__ == "__main__":
    command("cancel", STORY, measure)
