"""How long a start takes to be there again with many waiting tasks, and whether it answers meanwhile."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, perf_counter, sleep

from benchmarks.figures import Report, command
from benchmarks.servers import free_port
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import JournalFile
from orchqueue.adapters.journals.sqlite_statements import statements_of
from orchqueue.core.events import TaskRecovered
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, Tenant
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import PoolSettings, ReplicaSettings, Settings

STORY = "Read and take over 1 000 to 100 000 waiting tasks: the journal alone, the core alone, and the daemon from its exec."
POOL = PoolId("p")
TENANTS = 10
BATCH = 4_096
PROMPT = "Tell me a story. " * 18
POLL_S = 0.01
DEADLINE_S = 300.0
CONFIG = """\
pools:
  - id: p
    engine: llamacpp
    model: repo:test/nobody
    ctx: 2048
    launch: {{mode: external, urls: ['http://127.0.0.1:9'], allow_simulated: true}}
    queue: {{capacity: {capacity}}}
    admission: {{priorities: [{{name: interactive, queue_capacity: {capacity}}}, {{name: batch, queue_capacity: {capacity}}}]}}
logging: {{level: error}}
"""


def task(number: int) -> Accepted:
    """Make a waiting task; half of them are batch, of ten tenants in turn."""
    spec = TaskSpec(
        PROMPT, seed=number + 1, max_tokens=64, priority="batch" if number // TENANTS % 2 else "interactive"
    )
    tenant, task_id = Tenant(f"tenant-{number % TENANTS}"), TaskId(f"{number:032x}")
    return Accepted(tenant, task_id, spec, POOL, False, "v1", 80, 1_000_000 + number)


def write_journal(path: Path, tasks: int) -> None:
    """Write what a daemon leaves that was killed with so many waiting tasks."""
    file = JournalFile(str(path))
    file.open()
    for first in range(0, tasks, BATCH):
        numbers = range(first, min(tasks, first + BATCH))
        file.commit([statement for number in numbers for statement in statements_of(task(number))])
    file.drop()


def read_s(path: Path, tasks: int) -> float:
    """Time the journal alone: opened, checked, and every task decoded."""
    journal = SqliteJournal(str(path), lambda _: None)
    begun = perf_counter()
    found = sum(1 for _ in journal.recover().unfinished())
    took = perf_counter() - begun
    journal.close()
    assert found == tasks, f"{found} of {tasks} tasks were found"
    return took


def core_s(tasks: int) -> float:
    """Time the core alone."""
    pool = PoolSettings(POOL, "llamacpp", "m", (ReplicaSettings(ReplicaId("p-0")),), 2048, capacity=tasks)
    core = Orchestrator(Settings((pool,)))
    core.begin(2_000_000)
    events = [TaskRecovered(task(number)) for number in range(tasks)]
    begun = perf_counter()
    for event in events:
        core.handle(2_000_000, event)
    return perf_counter() - begun


def ask(port: int) -> str | None:
    """Give what `/readyz` says; None: nobody answers yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/readyz")
        return str(json.loads(connection.getresponse().read()).get("message", ""))
    except OSError:
        return None
    finally:
        connection.close()


def daemon(folder: Path, tasks: int) -> tuple[float, float, float]:
    """Time a real daemon over the journal in `folder`.

    Shape: from exec until it answers, until every task is there, and the slowest answer in between.
    Units: seconds.
    """
    port = free_port()
    config = folder / "orchqueue.yaml"
    config.write_text(CONFIG.format(capacity=max(1_000, tasks)))
    serve = [sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", str(port), "--config", str(config)]
    begun = monotonic()
    process = subprocess.Popen([*serve, "--data-dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        answers_s, slowest_s = 0.0, 0.0
        while monotonic() - begun < DEADLINE_S and process.poll() is None:
            asked = monotonic()
            said = ask(port)
            if said is not None:
                answers_s = answers_s or monotonic() - begun
                slowest_s = max(slowest_s, monotonic() - asked)
                if "recovering" not in said:
                    return answers_s, monotonic() - begun, slowest_s
            sleep(POLL_S)
        raise RuntimeError(f"the daemon did not recover {tasks} tasks within {DEADLINE_S:.0f} s")
    finally:
        process.terminate()
        process.wait()


def measure(quick: bool) -> Report:
    """Take all sizes, so that the ratio between them shows what grows faster than they do."""
    report = Report("recovery", quick)
    for tasks in (50, 500) if quick else (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o700)
            write_journal(folder / "journal.sqlite", tasks)
            took_s = read_s(folder / "journal.sqlite", tasks)
            report.add(f"journal read, {tasks} waiting", took_s, "s", f"{took_s / tasks * 1e6:.1f} µs a task")
            took_s = core_s(tasks)
            report.add(f"core takes over, {tasks} waiting", took_s, "s", f"{took_s / tasks * 1e6:.1f} µs a task")
            answers_s, there_s, slowest_s = daemon(folder, tasks)
            report.add(f"daemon answers after its exec, {tasks} waiting", answers_s, "s")
            report.add(f"daemon has every task, {tasks} waiting", there_s, "s")
            report.add(f"slowest answer of a probe meanwhile, {tasks} waiting", slowest_s * 1000, "ms")
    return report


if __name__ == "__main__":
    command("recovery", STORY, measure)
