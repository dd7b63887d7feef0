"""Why an engine process ended, from its exit status and its last words.

Req: ORCH-3038
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from orchqueue.core.events import CrashCause

TAIL_BYTES = 16 * 1024
_VRAM_OOM = re.compile(
    r"cuda\w*[^\n]*out of memory|out of memory[^\n]*cuda|cudaMalloc failed|CUDA_ERROR_OUT_OF_MEMORY|ErrorOutOfDeviceMemory",
    re.IGNORECASE,
)
_HOST_OOM = re.compile(
    r"bad_alloc|Cannot allocate memory|failed to allocate (?:CPU )?buffer|MemoryError", re.IGNORECASE
)
_CUDA = re.compile(r"CUDA error|CUDA_ERROR|ggml_cuda\w* error|Xid", re.IGNORECASE)
_REFUSED_MODEL = re.compile(r"error loading model: (.+)")
# Of an engine that lives only lines that the runtime itself begins count: what a client sent must not end a replica.
_BROKEN_DEVICE = re.compile(
    r"^(?:CUDA error\b|CUDA_ERROR_|ggml_cuda\w*:? .*\b(?:error|failed)\b|cudaMalloc failed\b).*", re.MULTILINE
)


def read_tail(path: Path, tail_bytes: int = TAIL_BYTES) -> str:
    """Read the end of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - tail_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def count_oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Read how many processes of our control group the kernel has killed for memory; 0 where it does not tell."""
    try:
        for line in (root / "memory.events").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def broken_device(tail: str) -> tuple[CrashCause, str] | None:
    r"""Find what an engine that still runs says of a device that failed it; None where it says nothing of the kind.

    Req: ORCH-4292

    >>> broken_device("slot 0 is idle\nCUDA error: an illegal memory access was encountered\n  current device: 0")
    ('cuda', 'the device failed: CUDA error: an illegal memory access was encountered')
    >>> broken_device("prompt: why do I see CUDA error?")
    """
    said = _BROKEN_DEVICE.search(tail)
    if said is None:
        return None
    line = said[0].strip()[:300]
    return ("vram_oom" if _VRAM_OOM.search(line) else "cuda"), f"the device failed: {line}"


def refused_model(tail: str) -> str | None:
    r"""Find why an engine that ended would not have its model, with what to do; None where that was not the reason.

    Req: ORCH-4429

    >>> refused_model("E llama_model_load: error loading model: unknown model architecture: 'x'\ncleaning up")
    "unknown model architecture: 'x'; use a newer engine, or a model of an architecture that it knows"
    """
    said = _REFUSED_MODEL.search(tail)
    if said is None:
        return None
    foreign = "architecture" in said[1]
    advice = "use a newer engine, or a model of an architecture that it knows" if foreign else "make or fetch it again"
    return f"{said[1].strip()[:300]}; {advice}"


def classify(returncode: int, tail: str, oom_kills: int) -> tuple[CrashCause, str]:
    """Name the cause and put it into one line.

    1. What the engine itself said of device memory, the host's memory, CUDA.
    2. Killed while the kernel counted `oom_kills` more kills for memory: the host's memory.
    3. A signal, an exit status.

    Req: ORCH-4142

    >>> classify(-9, "", 1)[0]
    'host_oom'
    """
    last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "it said nothing")[:300]
    if _VRAM_OOM.search(tail):
        return "vram_oom", f"device memory exhausted: {last}"
    if _HOST_OOM.search(tail) and returncode != 0:
        return "host_oom", f"host memory exhausted: {last}"
    if _CUDA.search(tail):
        return "cuda", f"CUDA failed: {last}"
    if returncode == -signal.SIGKILL and oom_kills > 0:
        return "host_oom", "killed by the kernel because the host's memory ran out"
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = str(-returncode)
        return "signal", f"ended by {name}: {last}"
    return "exit", f"exited with status {returncode}: {last}"
