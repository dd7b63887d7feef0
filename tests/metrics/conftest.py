"""The scripted workload and the flood of label values, each run once for all tests that look at what they left."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

from tests.daemon import running
from tests.metrics import flood, workload
from tests.metrics.flood import Flooded
from tests.metrics.history import History
from tests.metrics.park import parked
from tests.metrics.workload import NUMBER, SIMULATED, Script, Seen
from tests.simulated import simulated_engine
from tests.waiting import until


class Told(NamedTuple):
    """What is left of the workload: the clients' log, the last scrape, and what else was asked at that moment."""

    history: History
    scrape: str
    seen: list[Seen]
    gpu_kv_ratio: float
    real_pid: int
    real_resident_bytes: int


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Run the script against a real daemon."""
    directory = tmp_path_factory.mktemp("workload")
    workload.write_driver(directory)
    with (
        pytest.MonkeyPatch.context() as patch,
        parked(len(SIMULATED)) as park,
        simulated_engine("--tokens-per-s", "400") as doomed,
    ):
        patch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        config = directory / "orchqueue.yaml"
        config.write_text(workload.config_text(park, doomed), encoding="utf-8")
        with running(directory / "data", config) as daemon:
            script = Script(park, doomed, daemon)
            with script.history.client:
                script.run()
                url = daemon.url
                ratio = park.kv_ratio(NUMBER["gpu"])

                def is_current() -> bool:
                    """Tell whether the replica and its device were asked since the last task."""
                    metrics = script.history.client.get(f"{url}/v1/pools/gpu/health", timeout=30).json()["metrics"]
                    return metrics.get("kv_cache_usage_ratio") == pytest.approx(ratio) and "vram_used_bytes" in metrics

                until(is_current, deadline_s=30, what="the figures of the replica that has a GPU")
                real = script.history.client.get(f"{url}/v1/pools/real/health", timeout=30).json()["replicas"][0]
                with open(f"/proc/{real['pid']}/statm", "rb") as file:
                    resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                return Told(
                    script.history,
                    script.history.client.get(f"{url}/metrics", timeout=30).text,
                    script.seen,
                    ratio,
                    real["pid"],
                    resident,
                )


@pytest.fixture(scope="session")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Flooded:
    """Run the flood against a real daemon."""
    directory = tmp_path_factory.mktemp("flood")
    flood.write_driver(directory)
    with pytest.MonkeyPatch.context() as patch, parked(flood.ENGINES, tokens_per_s=20_000) as park:
        patch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        config = directory / "orchqueue.yaml"
        config.write_text(flood.config_text(park, directory), encoding="utf-8")
        with running(directory / "data", config) as daemon:
            flood.wait_for_replicas(daemon.url)
            return flood.attack(daemon.url)
