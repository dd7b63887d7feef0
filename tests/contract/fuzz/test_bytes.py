"""Bytes that are nearly HTTP get an answer that is declared somewhere, or a closed connection; and the daemon lives on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from orchqueue.schema.contract import declared_operations
from tests.contract.fuzz.answers import STREAM, answer_faults, envelope_faults
from tests.contract.fuzz.conftest import POOL, QUICK
from tests.contract.fuzz.generated import Plan
from tests.contract.fuzz.mutations import Answer, Lot, answers_in, deliver, lots
from tests.contract.fuzz.transcripts import transcript_faults
from tests.daemon import Daemon
from tests.simulated import serving
from tests.waiting import until

PLAN = Plan.of_environment()
LOTS = max(1_200, 60 * PLAN.examples)
WARM_UP_LOTS = 200
CLIENTS = 16
GROWTH_BYTES_MAX = 48 << 20
# Some statuses are those of a few lots only: a machine that stalls for less than this costs none of them.
HURRIED = (
    "server: {limits: {header_bytes: 4096, body_bytes: 65536, header_timeout_ms: 2000, body_timeout_ms: 2000, "
    "idle_timeout_ms: 1000}}\n"
)
SUCCESSES = (200, 202, 204)
# Beside those of the HTTP layer: a task that was posted again with another body.
CONFLICT = 409


@pytest.fixture
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve with little patience, so that a request that is never finished costs no time."""
    with serving(tmp_path_factory.mktemp("hurried"), HURRIED, *QUICK, pool_id=POOL) as daemon:
        yield daemon


def faults_of_answer(answer: Answer) -> list[str]:
    """Judge an answer to a request that nobody can tell; a success must be that of some call."""
    is_stream = answer.headers.get("content-type") == STREAM
    if not answer.whole:
        return [] if is_stream else [f"{answer.status} was cut short"]
    if answer.status in SUCCESSES:
        tried = [answer_faults(one.id, answer.status, answer.headers, answer.body) for one in declared_operations()]
        return [] if [] in tried else [f"{answer.status} fits no call: {min(tried, key=len)}"]
    if answer.status == CONFLICT:
        return answer_faults("createTask", CONFLICT, answer.headers, answer.body)
    return envelope_faults(answer.status, answer.headers, answer.body)


def play(daemon: Daemon, chosen: list[Lot]) -> tuple[list[str], Counter[int]]:
    """Deliver lots from several clients at once; give what was wrong, and how often each status came."""
    faults: list[str] = []
    seen: Counter[int] = Counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for lot, raw in zip(chosen, clients.map(lambda lot: deliver(daemon.port, lot), chosen), strict=True):
            try:
                answers = answers_in(raw)
            except ValueError as error:
                faults.append(f"{lot}: {error}")
                continue
            seen.update(answer.status for answer in answers)
            faults += [f"{lot}: {fault}" for answer in answers for fault in faults_of_answer(answer)]
    return faults, seen


@pytest.mark.timeout(PLAN.patience_s)
@pytest.mark.req("ORCH-4045", "ORCH-4022", "ORCH-2006", "ORCH-2052")
def test_mutated_requests(hurried: Daemon) -> None:
    """Each answer is a declared one with our envelope and a correlation id; memory and sockets come back; tasks still run."""
    process = psutil.Process(hurried.process.pid)
    chosen = list(lots(PLAN.seed, LOTS))
    faults, seen = play(hurried, chosen[:WARM_UP_LOTS])
    warm_bytes = process.memory_info().rss
    more_faults, more_seen = play(hurried, chosen[WARM_UP_LOTS:])
    faults += more_faults
    assert faults == []
    assert (seen + more_seen).keys() >= {200, 202, 204, 400, 401, 404, 405, 408, 431}
    assert hurried.process.poll() is None
    assert not [line for line in hurried.log if '"internal_error"' in line or '"bug"' in line]
    assert process.memory_info().rss - warm_bytes < GROWTH_BYTES_MAX
    until(lambda: len(process.net_connections("tcp")) <= 40, what="the daemon's sockets to be closed")
    body = {"prompt": "hi", "max_tokens": 8}
    answer = httpx.post(f"{hurried.url}/v1/tasks", json=body, headers={"accept": STREAM}, timeout=30)
    assert transcript_faults(answer.content) == []


def test_lots_depend_on_their_seed_and_number_only() -> None:
    """The same seed makes the same bytes, however many are made; another makes others."""
    few, many = list(lots(1, 5)), list(lots(1, 50))
    assert many[:5] == few
    assert list(lots(2, 5)) != few
    assert {lot.ending for lot in lots(1, 300)} == {"half-close", "wait", "reset"}


@pytest.mark.req("ORCH-4045", "ORCH-4048")
@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}", "none of the HTTP layer's statuses"),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot Found",
            "X-Correlation-Id is promised once and comes 0 times",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot", "was cut short"),
        (b"HTTP/1.1 200 OK\r\nx-correlation-id: a\r\ncontent-length: 2\r\n\r\nOK", "fits no call"),
        (b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n", "none of the HTTP layer's statuses"),
    ],
)
def test_each_bad_answer_is_found(raw: bytes, told: str) -> None:
    """What the contract does not declare is told in plain words."""
    (answer,) = answers_in(raw)
    assert told in "; ".join(faults_of_answer(answer))
