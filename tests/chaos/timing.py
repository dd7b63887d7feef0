"""Time that passes on purpose: a storm has a length, and its strokes have their moments. Nothing is asserted on it."""

from __future__ import annotations

import asyncio


async def pass_time(seconds: float) -> None:
    """Let real time go by, and everybody else go on."""
    over = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(max(0.0, seconds), over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
