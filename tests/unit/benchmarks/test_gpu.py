"""The measurement on a GPU, as far as it goes without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Report
from benchmarks.gpu import POOLS, as_markdown, configuration
from orchqueue.config.loader import load
from orchqueue.config.settings import is_strict

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.req("ORCH-4231")
@pytest.mark.parametrize(
    ("devices", "masks"), [(["cpu"], [("cpu",)] * 2), (["cuda:0", "cuda:1"], [("cuda:0",), ("cuda:1",)])]
)
def test_two_strict_pools_on_the_devices_in_turn(
    tmp_path: Path, devices: list[str], masks: list[tuple[str, ...]]
) -> None:
    """The file is one that the daemon takes, with a replica on each device."""
    path = tmp_path / "orchqueue.yaml"
    path.write_text(configuration("bundled:smollm2-135m-instruct-q4_1", devices, 512))
    pools = load(str(path)).pools
    assert [pool.id for pool in pools] == list(POOLS)
    assert [pool.devices for pool in pools] == masks
    assert all(is_strict(pool) for pool in pools)


@pytest.mark.req("ORCH-4231")
def test_figures_become_a_table() -> None:
    """The device and the model stand above the figures."""
    report = Report("gpu", False)
    report.detail |= {"model": "file:a.gguf", "devices": "cuda:0"}
    report.add("one stream", 123.4, "tokens/s", "first token included")
    told = as_markdown(report)
    assert "cuda:0, file:a.gguf" in told.splitlines()[0]
    assert "| one stream | 123.4 tokens/s | first token included |" in told


@pytest.mark.req("ORCH-3018", "ORCH-4231")
def test_without_a_gpu_it_says_what_is_missing() -> None:
    """The pools are refused, the reason is told, nothing runs on the CPU unasked, and the status is 1."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cuda:63"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not measured: cannot_fit" in done.stderr
