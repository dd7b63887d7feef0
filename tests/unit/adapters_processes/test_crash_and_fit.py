"""Why engines end, what fits, and which flags exist."""

import asyncio
import signal
from pathlib import Path

import pytest

from orchqueue.adapters.engines.llamacpp_server import SETTINGS_VARIABLE
from orchqueue.adapters.processes import fit
from orchqueue.adapters.processes.crash import classify, count_oom_kills, read_tail
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.external import ExternalHost
from orchqueue.adapters.processes.llamacpp_launch import (
    SpawnSettings,
    check_device,
    read_args,
    server_env,
    server_settings,
)
from orchqueue.core.events import DeviceFigures
from orchqueue.core.ids import ReplicaId
from orchqueue.ports.errors import ProcessError


@pytest.mark.req("ORCH-4142")
@pytest.mark.parametrize(
    ("returncode", "tail", "kills", "cause"),
    [
        (3, "", 0, "exit"),
        (0, "", 0, "exit"),
        (-signal.SIGSEGV, "", 0, "signal"),
        (-signal.SIGKILL, "", 0, "signal"),
        (-signal.SIGKILL, "", 1, "host_oom"),
        (-signal.SIGSEGV, "", 1, "signal"),
        (-signal.SIGABRT, "terminate called: std::bad_alloc", 0, "host_oom"),
        (1, "CUDA error: out of memory\n  in ggml_cuda", 0, "vram_oom"),
        (1, "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", 0, "vram_oom"),
        (-signal.SIGABRT, "CUDA error: an illegal memory access was encountered", 0, "cuda"),
        (-99, "", 0, "signal"),
    ],
)
def test_causes_are_told_apart(returncode: int, tail: str, kills: int, cause: str) -> None:
    """Exit, signal, host memory, device memory and CUDA each have their own cause."""
    assert classify(returncode, tail, kills)[0] == cause


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    """Only the end of a log is read, and none is needed."""
    path = tmp_path / "x.log"
    path.write_bytes(b"a" * 100_000 + b"\xffend")
    assert read_tail(path).endswith("end")
    assert len(read_tail(path)) < 20_000
    assert read_tail(tmp_path / "none") == ""


@pytest.mark.req("ORCH-4142")
def test_oom_kills_are_read_from_the_control_group(tmp_path: Path) -> None:
    """The kernel's count is read; without one it is 0."""
    assert count_oom_kills(tmp_path) == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert count_oom_kills(tmp_path) == 2


@pytest.mark.req("ORCH-3049")
def test_what_does_not_fit_is_refused_with_figures() -> None:
    """A model larger than what is free cannot fit, on any device of its split."""
    gib = 1 << 30
    fit.check_fit(4 * gib, gib, [6 * gib], [1.0], "host memory")
    with pytest.raises(ProcessError, match=r"5312 MiB.*4096 weights.*1024 KV.*5120 MiB are free") as caught:
        fit.check_fit(4 * gib, gib, [5 * gib], [1.0], "host memory")
    assert caught.value.cause == "cannot_fit"
    with pytest.raises(ProcessError):
        fit.check_fit(4 * gib, 0, [8 * gib, gib], [0.5, 0.5], "device memory")


def test_the_control_group_bounds_host_memory(tmp_path: Path) -> None:
    """What the group may still take counts when it is less than what the host has; its page cache can be taken back."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000000 kB\n")
    assert fit.host_available_bytes(tmp_path, tmp_path / "none") == 1_024_000_000
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("450000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\nactive_file 5000\n")
    assert fit.host_available_bytes(tmp_path, tmp_path) == 155_000


@pytest.mark.req("ORCH-3018")
async def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a driver, or without that device, the answer is a reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessError, match="nvidia-smi"):
        await fit.device_free_bytes([0])
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, 1024'\necho '1, 2048'\n")
    tool.chmod(0o755)
    assert await fit.device_free_bytes([1, 0]) == [2048 << 20, 1024 << 20]
    with pytest.raises(ProcessError, match="cuda:7"):
        await fit.device_free_bytes([0, 7])


@pytest.mark.req("ORCH-3018")
def test_the_cpu_is_never_used_unasked() -> None:
    """A pool without a GPU and without allow_cpu cannot start."""
    with pytest.raises(ProcessError, match="allow_cpu"):
        check_device(SpawnSettings("p", 2048), ("cpu",))
    assert check_device(SpawnSettings("p", 2048, allow_cpu=True), ()) == []
    assert check_device(SpawnSettings("p", 2048), ("cuda:2", "cuda:3")) == [2, 3]


def test_unknown_flags_are_named() -> None:
    """A flag that does not exist or has the wrong type is refused by name."""
    with pytest.raises(ProcessError, match="treads"):
        read_args({"treads": 2})
    with pytest.raises(ProcessError, match="threads"):
        read_args({"threads": "two"})


@pytest.mark.req("ORCH-3012")
def test_server_settings_follow_the_device() -> None:
    """On the CPU batches are small and nothing is offloaded; on GPUs the mask and the split reach the server."""
    cpu = server_settings(SpawnSettings("p", 2048, slots=2, strict=False), "/m", "key", 0)
    assert (cpu.gpu_devices, cpu.n_batch, cpu.cache_ram_mib, cpu.tensor_split) == (0, 8, 512, ())
    assert cpu.threads >= 1
    pool = SpawnSettings("p", 2048, tensor_split=(0.25, 0.75), args={"n_batch": 256, "threads": 3}, env={"A": "b"})
    gpu = server_settings(pool, "/m", "key", 2)
    assert (gpu.gpu_devices, gpu.n_batch, gpu.n_ubatch, gpu.threads, gpu.cache_ram_mib) == (2, 256, 256, 3, 0)
    assert gpu.tensor_split == (0.25, 0.75)
    env = server_env(pool, gpu, SETTINGS_VARIABLE, [2, 3])
    assert (env["CUDA_VISIBLE_DEVICES"], env["A"]) == ("2,3", "b")


@pytest.mark.req("ORCH-4263")
async def test_device_figures_come_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy, used and free are as the driver says for the devices asked for, what it does not tell is left open, and it is asked once."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await DeviceProbe().read([0]) == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho asked >> \"$0.log\"\necho '0, 37, 1024, 512'\necho '1, [N/A], 5, [N/A]'\necho '2, 1, 1, 1'\n"
    )
    tool.chmod(0o755)
    probe = DeviceProbe(interval_s=1000)
    expected = (DeviceFigures("cuda:0", 37, 1024 << 20, 512 << 20), DeviceFigures("cuda:1", None, 5 << 20, None))
    assert tuple(await asyncio.gather(probe.read([0, 1]), probe.read([0, 1, 9]), probe.read([]))) == (
        expected,
        expected,
        (),
    )
    assert await probe.read([0, 1]) == expected
    assert (tmp_path / "nvidia-smi.log").read_text() == "asked\n"


@pytest.mark.req("ORCH-4263")
@pytest.mark.parametrize(
    ("url", "found"),
    [("http://127.0.0.1:1", 1), ("http://[::1]:1", 1), ("http://localhost:1", 1), ("http://gpu7:1", 0)],
)
async def test_devices_are_looked_at_only_for_engines_on_this_machine(
    url: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver here knows nothing of another machine's GPUs, though they have the same names."""
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, 37, 1024, 512'\n")
    tool.chmod(0o755)
    replica_id = ReplicaId("p-0")
    external = ExternalHost("llamacpp", {replica_id: url}, devices=("cuda:0",))
    assert len(await external.probe_of(replica_id)()) == found
