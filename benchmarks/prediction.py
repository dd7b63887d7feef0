"""How far predicted starts are off with the real embedded engine under a real burst."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.figures import Report, command
from benchmarks.scheduling.measures import calibration, error_of
from benchmarks.servers import Server, own_daemon
from orchqueue.client.aio import AsyncClient
from orchqueue.client.types import Started, TaskRequest

STORY = "Predicted against real start of a burst of 60 tasks of two classes at the embedded model, after a warm-up."
PARTS = ("told", "p10", "p50", "p90")
# Each kind of task has its habit, as a client's tasks have: words of prompt, limit of tokens.
KINDS = ((6, 16), (12, 48), (60, 24), (30, 96))


class Start(msgspec.Struct, frozen=True):
    """One task's predicted and real wait."""

    priority: str
    told_ms: int
    real_ms: int
    position: int


def request(dice: random.Random) -> TaskRequest:
    """Draw a task."""
    words, limit = dice.choice(KINDS)
    prompt = " ".join(dice.choice(("stone", "river", "light", "paper", "glass", "apple")) for _ in range(words))
    return TaskRequest(
        prompt=f"Tell me about: {prompt}",
        max_tokens=limit,
        priority=dice.choice(("interactive", "interactive", "batch")),
        on_disconnect="continue",
    )


async def follow(client: AsyncClient, task_id: str, priority: str) -> Start:
    """Read a task's stream to its end."""
    found: Start | None = None
    async with client.stream(task_id) as events:
        async for event in events:
            if isinstance(event, Started):
                found = Start(priority, event.predicted_start_ms, event.queue_time_ms, event.queue_position)
    assert found is not None, f"task {task_id} ended without a start"
    return found


async def burst(client: AsyncClient, dice: random.Random, tasks: int) -> list[Start]:
    """Send tasks one right after the other, and follow each."""
    readers = []
    for _ in range(tasks):
        wanted = request(dice)
        admission = await client.submit(wanted)
        readers.append(asyncio.create_task(follow(client, admission.task_id, str(wanted.priority))))
    return list(await asyncio.gather(*readers))


async def warmed_burst(server: Server, tasks: int, warm_up: int) -> list[Start]:
    """Let the daemon learn from a smaller burst first: rates are told as measured with as many tasks at once."""
    dice = random.Random(11)
    async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
        await burst(client, dice, warm_up)
        return await burst(client, dice, tasks)


def report_on(starts: list[Start], report: Report) -> None:
    """Put the errors of all tasks and of each class into the report, and the points of the calibration plot."""
    pairs = [(float(start.told_ms), float(start.real_ms)) for start in starts]
    groups = {"all": pairs, "waited": [pair for pair in pairs if pair[1] > 0]}
    for name in ("interactive", "batch"):
        groups[name] = [p for p, s in zip(pairs, starts, strict=True) if s.priority == name]
    for name, found in groups.items():
        error = error_of(found)
        report.add(f"{name}: tasks", error.count, "of the burst")
        report.add(f"{name}: median error", error.median * 100, "%")
        report.add(f"{name}: p90 error", error.p90 * 100, "%")
        report.add(f"{name}: bias", error.bias * 100, "%", "above 0: sooner than told")
    report.add("longest wait", max(real for _, real in pairs), "ms")
    report.detail["told"], report.detail["real"] = [told for told, _ in pairs], [real for _, real in pairs]
    for name, values in zip(PARTS, zip(*calibration(pairs), strict=True), strict=True):
        report.detail[f"deciles: {name}"] = list(values)


def measure(quick: bool) -> Report:
    """Run the embedded daemon and send the burst."""
    report = Report("prediction", quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = [sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", "0"]
        with own_daemon([*line, "--data-dir", str(folder / "data")], folder, pinned=False) as server:
            starts = asyncio.run(warmed_burst(server, *((12, 4) if quick else (60, 60))))
    report_on(starts, report)
    return report


if __name__ == "__main__":
    command("prediction", STORY, measure)
