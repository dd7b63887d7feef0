"""Will the model fit? Asked before a process is started, so that the answer is a reason and not a crash.

Req: ORCH-3018
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchqueue.adapters.processes.devices import MIB, query_devices
from orchqueue.ports.errors import ProcessError

OVERHEAD_BYTES = 192 * 1024 * 1024
"""Compute buffers and the server itself, measured with a small model."""


def host_available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Read how much memory the host and our control group still give."""
    available = 1 << 62
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            used = int((cgroup / "memory.current").read_text())
            stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
            reclaimable = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
            available = min(available, int(limit) - used + reclaimable)
    except (OSError, ValueError):
        pass
    return available


async def device_free_bytes(indices: Sequence[int]) -> list[int]:
    """Ask the driver how much memory each device has free.

    Errors: ProcessError where the driver or a device is missing.
    """
    try:
        rows = await query_devices("index,memory.free")
    except OSError as error:
        raise ProcessError(
            "cannot_fit", f"devices cuda:{list(indices)} are wanted, but nvidia-smi cannot be run: {error}"
        ) from error
    free: dict[int, int] = {}
    for row in rows:
        if len(row) == 2 and row[0].isdigit() and row[1].isdigit():
            free[int(row[0])] = int(row[1]) * MIB
    missing = [index for index in indices if index not in free]
    if missing:
        raise ProcessError("cannot_fit", f"no such device: {', '.join(f'cuda:{index}' for index in missing)}")
    return [free[index] for index in indices]


def check_fit(model_bytes: int, kv_bytes: int, free_bytes: Sequence[int], shares: Sequence[float], where: str) -> None:
    """Refuse what cannot fit; each device must take its share.

    Errors: ProcessError with cause `cannot_fit`.
    Req: ORCH-3049

    >>> check_fit(1 << 20, 0, [1 << 40], [1.0], "host memory")
    """
    for free, share in zip(free_bytes, shares, strict=True):
        need = int((model_bytes + kv_bytes) * share) + OVERHEAD_BYTES
        if need > free:
            raise ProcessError(
                "cannot_fit",
                f"the model needs about {need // MIB} MiB ({model_bytes // MIB} weights, {kv_bytes // MIB} KV) of {where},"
                f" {free // MIB} MiB are free; use a smaller model, ctx or slots",
            )
