"""The real daemon under hostile and clumsy clients: documented answers, nothing queued, no memory kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.contract.edge.hostile import CASES, SLOW_BODIES, SLOW_HEADERS, judge, provoke
from tests.daemon import Daemon, metric, running

ROUNDS = 3
SLOW = (*SLOW_HEADERS, *SLOW_BODIES)
PATIENCE = """
pools:
  - id: unplugged
    engine: llamacpp
    model: repo:none/none
    launch: {mode: external, urls: ["http://127.0.0.1:9"]}
server:
  limits: {header_timeout_ms: 2000, body_timeout_ms: 2000, idle_timeout_ms: 2000}
"""


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon that waits for slow clients only for two seconds; it needs no engine to say no."""
    place: Path = tmp_path_factory.mktemp("impatient")
    config = place / "orchqueue.yaml"
    config.write_text(PATIENCE)
    with running(place / "data", config) as daemon:
        yield daemon


@pytest.mark.timeout(240)
@pytest.mark.req("ORCH-2006", "ORCH-2008", "ORCH-4020", "ORCH-4022")
def test_no_provocation_is_queued_or_kept_in_memory(impatient: Daemon) -> None:
    """All cases, several times over, the slow clients all at once: each as documented, and memory stays within 10 %."""
    process = psutil.Process(impatient.process.pid)
    address = ("127.0.0.1", impatient.port)
    use_normally(impatient.url)
    before = process.memory_info().rss
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(len(SLOW)) as clients:
            replies = list(clients.map(partial(provoke, address), SLOW))
        for case, reply in zip(SLOW, replies, strict=True):
            judge(case, reply)
        for case in CASES:
            if case not in SLOW:
                judge(case, provoke(address, case))
        assert httpx.get(f"{impatient.url}/healthz", timeout=10).status_code == 200
    assert metric(impatient.url, "tasks_enqueued_total") == 0
    assert process.memory_info().rss <= 1.1 * before


def use_normally(url: str) -> None:
    """Ask what any client asks, so that everything a serving daemon keeps is there."""
    with httpx.Client(base_url=url, timeout=10) as http:
        for _ in range(20):
            assert http.post("/v1/tasks", json={"prompt": "hi"}).status_code == 503
            assert http.post("/v1/tasks", json={"prompt": 1}).status_code == 400
            for path in ("/v1/tasks", "/v1/pools", "/v1/capabilities", "/metrics", "/healthz"):
                assert http.get(path).status_code == 200
