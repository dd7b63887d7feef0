"""Wait for a condition, never for a time: the only place where tests pause."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

POLL_S = 0.005
DEADLINE_S = 30.0


def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S, what: str = "") -> None:
    """Return as soon as the condition holds; fail at the deadline with what was awaited.

    Errors: AssertionError at the deadline.
    """
    attempts = max(1, int(deadline_s / POLL_S))
    pause = threading.Event()
    for _ in range(attempts):
        if condition():
            return
        pause.wait(POLL_S)
    raise AssertionError(f"not within {deadline_s} s: {what or condition!r}")


async def until_async(
    condition: Callable[[], object | Awaitable[object]], *, deadline_s: float = DEADLINE_S, what: str = ""
) -> None:
    """Return as soon as the condition (plain or awaitable) holds, letting the loop run meanwhile.

    Errors: AssertionError at the deadline.
    """
    attempts = max(1, int(deadline_s / POLL_S))
    for _ in range(attempts):
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"not within {deadline_s} s: {what or condition!r}")
