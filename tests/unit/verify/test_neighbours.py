"""What goes on around the seeds is ended with them, wherever it stands."""

from __future__ import annotations

import asyncio
from typing import NoReturn, cast

import pytest

from orchqueue.client import AsyncClient, TaskRequest
from orchqueue.client.errors import NotFound
from orchqueue.verify.neighbours import load


class FullServer:
    """Has no room for a task, so that each is asked for again and again, and knows none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.canceled: list[str] = []
        self.busy = asyncio.Event()

    async def run(self, request: TaskRequest) -> NoReturn:
        """Ask again until stopped."""
        self.asked.append(str(request.task_id))
        self.busy.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def cancel(self, task_id: str) -> NoReturn:
        """Know no such task."""
        self.canceled.append(task_id)
        raise NotFound(404, f"no task {task_id}")


@pytest.mark.req("ORCH-4403")
async def test_load_that_was_never_accepted_ends_as_asked() -> None:
    """Stopped while the server still refuses its task, the load ends as cancelled; that there is none to cancel is no failure."""
    server = FullServer()
    around = asyncio.create_task(load(cast("AsyncClient", server), "p"))
    await server.busy.wait()
    around.cancel()
    await asyncio.wait({around})
    assert around.cancelled()
    assert server.canceled == server.asked
