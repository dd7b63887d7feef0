"""A script that makes every figure of the contract move: each part has pools and engines of its own, so that none disturbs another."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.daemon import Daemon
from tests.metrics.history import History
from tests.metrics.park import Park, version_of
from tests.simulated import SimulatedEngine

BUNDLED = "bundled:smollm2-135m-instruct-q4_1"
SILENT = {"silent_after": 20, "times": 1}
ENDLESS: dict[str, object] = {"max_tokens": 1500, "sampling": {"ignore_eos": True}}
ONE_DAY_MS = 86_400_000
GPU_BUSY_PERCENT, GPU_USED_MIB = 37, 1234

# No silence ends a task where the script does not wish it: neither an engine's nor that of a machine that stalls.
PATIENT = "timeouts: {idle_ms: 600000}"
# Pools in front of simulated engines, with what is special about each; the n-th has the n-th engine of the park.
SIMULATED: dict[str, str] = {
    "steady": f"admission: {{priorities: [{{name: batch, rate_limit_rps: 0.001}}]}}\n    {PATIENT}",
    "reader": PATIENT,
    "walled": "timeouts: {wall_ms: 1500, idle_ms: 600000}",
    "idle": "timeouts: {idle_ms: 400}\n    retry: {max_attempts: 1}",
    "first": "timeouts: {first_token_ms: 500, idle_ms: 600000}",
    "drained": PATIENT,
    "narrow": f"queue: {{capacity: 1}}\n    {PATIENT}",
    "lru": f"queue: {{capacity: 1, full_policy: drop-lru}}\n    {PATIENT}",
    "shed": f"queue: {{capacity: 1, full_policy: shed-low-priority}}\n    {PATIENT}",
    "fragile": f"retry: {{max_attempts: 4}}\n    {PATIENT}",
    "replayed": PATIENT,
    "brittle": f"retry: {{max_attempts: 1}}\n    {PATIENT}",
    "gpu": f"devices: ['cuda:0']\n    {PATIENT}",
}
NUMBER = {name: index for index, name in enumerate(SIMULATED)}
LOST_AT_START = ("gone", "huge")


class Seen(NamedTuple):
    """What a scrape in the middle showed, beside what another question was answered at that moment."""

    depth_scraped: float
    depth_told: float


class Script:
    """The parts of the workload."""

    def __init__(self, park: Park, doomed: SimulatedEngine, daemon: Daemon) -> None:
        self.park = park
        self.doomed = doomed
        self.daemon = daemon
        versions = {name: version_of(index) for name, index in NUMBER.items()}
        versions |= {"doomed": "b0-simulated", "real": f"xllamacpp-{version('xllamacpp')}"}
        self.history = History(daemon.url, versions)
        self.seen: list[Seen] = []

    def run(self) -> None:
        """Run every part and wait until each task has ended."""
        for name in (*SIMULATED, "doomed"):
            self.history.until_replica(name, "ready")
        for name in LOST_AT_START:
            self.history.until_replica(name, "backoff")
        parts: tuple[Callable[[], None], ...] = (
            self.disconnect_and_deadline, self.complete_and_refuse, self.timeouts, self.drain, self.reject, self.drop_lru,
            self.shed, self.lose_attempts, self.replay, self.exhaust, self.lose_engine, self.run_real,
        )  # fmt: skip
        with ThreadPoolExecutor(len(parts)) as threads:
            for done in [threads.submit(part) for part in parts]:
                done.result()
        self.history.collect()

    def occupy(self, pool: str, cancel: str = "client") -> str:
        """Let an engine fall silent in the middle of a task that a client will cancel."""
        self.park.set_faults(NUMBER[pool], **SILENT)
        task_id = self.history.post(pool, cancel=cancel, **ENDLESS)
        self.history.until_speaking(task_id)
        return task_id

    def disconnect_and_deadline(self) -> None:
        """One reader leaves for good while another task waits behind it beyond its deadline."""
        history = self.history
        self.park.set_faults(NUMBER["reader"], **SILENT)
        body = history.body("reader", ENDLESS | {"on_disconnect": "cancel"})
        headers = {"Accept": "text/event-stream"}
        with history.client.stream("POST", f"{history.url}/v1/tasks", json=body, headers=headers, timeout=60) as stream:
            history.accept("reader", body, "disconnect")
            assert any(line.startswith("event: token") for line in stream.iter_lines())
            waiting = history.post("reader", cancel="deadline", deadline_ms=1500)
        assert history.until_ended(waiting) == "failed"

    def complete_and_refuse(self) -> None:
        """Tasks end well or by cancel; wrong, repeated, conflicting, late and too many ones are refused."""
        history = self.history
        body = history.body("steady", {})
        headers = {"Accept": "text/event-stream"}
        answer = self.history.client.post(f"{history.url}/v1/tasks", json=body, headers=headers, timeout=60)
        assert "event: end" in answer.text
        history.accept("steady", body)
        assert self.history.client.post(f"{history.url}/v1/tasks", json=body, timeout=30).status_code == 202
        history.refuse("steady", 409, "INVALID_PARAMS", task_id=body["task_id"], prompt="another")
        assert history.until_ended(history.post("steady", priority="batch")) == "succeeded"
        history.refuse("steady", 429, "ADMISSION_REJECT", priority="batch")
        history.refuse("steady", 429, "ADMISSION_REJECT", deadline_ms=1, **ENDLESS)
        history.refuse("steady", 400, "INVALID_PARAMS", ctx=1 << 20)
        history.refuse("steady", 400, "INVALID_PARAMS", model_ref="repo:nobody/none")
        running = self.occupy("steady")
        waiting = history.post("steady", cancel="client")
        history.cancel(waiting)
        history.cancel(running)
        history.cancel(running)
        malformed = self.history.client.post(
            f"{history.url}/v1/tasks", content=b"{", headers={"Content-Type": "application/json"}
        )
        assert malformed.status_code == 400
        assert self.history.client.post(f"{history.url}/v1/tasks/{uuid.uuid4()}/cancel", timeout=30).status_code == 404
        assert history.until_ended(history.post("gpu", max_tokens=40)) == "succeeded"

    def timeouts(self) -> None:
        """Three tasks run out of three kinds of time."""
        self.park.set_faults(NUMBER["walled"], **SILENT)
        self.park.set_faults(NUMBER["idle"], **SILENT)
        self.park.set_faults(NUMBER["first"], first_token_delay_ms=ONE_DAY_MS, times=1)
        tasks = [
            self.history.post("walled", cancel="wall_timeout", **ENDLESS),
            self.history.post("idle", cancel="idle_timeout", **ENDLESS),
            self.history.post("first", cancel="idle_timeout", **ENDLESS),
        ]
        for task_id in tasks:
            assert self.history.until_ended(task_id) == "failed"

    def drain(self) -> None:
        """A pool is drained from under a running and a waiting task, and takes no more."""
        history = self.history
        running = self.occupy("drained", cancel="drain")
        waiting = history.post("drained", cancel="drain")
        answer = self.history.client.post(
            f"{history.url}/v1/pools/drained/drain", json={"deadline_ms": 200}, timeout=30
        )
        assert answer.status_code == 202, answer.text
        assert {history.until_ended(running), history.until_ended(waiting)} == {"failed"}
        history.refuse("drained", 503, "POOL_UNREADY")

    def reject(self) -> None:
        """A full queue refuses the newcomer; meanwhile its depth is in the scrape."""
        history = self.history
        running = self.occupy("narrow")
        waiting = history.post("narrow", cancel="client")
        history.refuse("narrow", 429, "ADMISSION_REJECT")
        told = self.history.client.get(f"{history.url}/v1/pools/narrow/health", timeout=30).json()["metrics"][
            "queue_depth"
        ]
        labels = f'engine="llamacpp",engine_version="{history.version_of["narrow"]}",pool_id="narrow"'
        wanted = f'queue_depth{{{labels},priority="interactive"}}'
        lines = self.history.client.get(f"{history.url}/metrics", timeout=30).text.splitlines()
        (line,) = [line for line in lines if line.startswith(wanted)]
        self.seen.append(Seen(float(line.rpartition(" ")[2]), told))
        history.cancel(waiting)
        history.cancel(running)

    def drop_lru(self) -> None:
        """A full queue drops a waiting batch task for an interactive one, and has no victim for the next batch task."""
        history = self.history
        running = self.occupy("lru")
        victim = history.post("lru", priority="batch")
        waiting = history.post("lru", cancel="client")
        assert history.until_ended(victim) == "failed"
        history.refuse("lru", 429, "QUEUE_FULL_DROP_LRU", priority="batch")
        history.cancel(waiting)
        history.cancel(running)

    def shed(self) -> None:
        """A full queue sheds a waiting batch task for an interactive one, and refuses the next batch task."""
        history = self.history
        running = self.occupy("shed")
        victim = history.post("shed", priority="batch")
        waiting = history.post("shed", cancel="client")
        assert history.until_ended(victim) == "failed"
        history.refuse("shed", 429, "ADMISSION_REJECT", priority="batch")
        history.cancel(waiting)
        history.cancel(running)

    def lose_attempts(self) -> None:
        """One loss before the first token is retried, three of them are poison; a grammar that is none is refused."""
        history, engine = self.history, NUMBER["fragile"]
        self.park.set_faults(engine, eof_after=1, times=1)
        assert history.until_ended(history.post("fragile")) == "succeeded"
        history.until_replica("fragile", "ready")
        self.park.set_faults(engine, eof_after=1, times=3)
        assert history.until_ended(history.post("fragile")) == "failed"
        history.until_replica("fragile", "ready")
        assert history.until_ended(history.post("fragile", sampling={"grammar": "nonsense"})) == "failed"

    def replay(self) -> None:
        """A text that breaks off is computed again and goes on; an engine that then says something else ends its task."""
        history, engine = self.history, NUMBER["replayed"]
        self.park.set_faults(engine, eof_after=20, times=1)
        whole: dict[str, Any] = {"max_tokens": 40, "sampling": {"ignore_eos": True}}
        assert history.until_ended(history.post("replayed", **whole)) == "succeeded"
        history.until_replica("replayed", "ready")
        self.park.set_faults(engine, not_deterministic=True, eof_after=20, times=2)
        task_id = history.post("replayed", **whole)
        assert history.until_ended(task_id) == "failed"
        assert "differed at byte" in history.task(task_id)["error"]["message"]

    def exhaust(self) -> None:
        """A task that may be tried once is given up after a loss, and after an error of the engine."""
        history, engine = self.history, NUMBER["brittle"]
        self.park.set_faults(engine, eof_after=1, times=1)
        assert history.until_ended(history.post("brittle")) == "failed"
        history.until_replica("brittle", "ready")
        self.park.set_faults(engine, status=500, times=1)
        assert history.until_ended(history.post("brittle")) == "failed"

    def lose_engine(self) -> None:
        """An engine dies in the middle of a text that nobody can go on with; then its pool has nobody left."""
        history = self.history
        self.doomed.set_faults(**SILENT)
        grammar = f'root ::= "{"so " * 100}"'
        task_id = history.post(
            "doomed", cancel="", determinism="best_effort", sampling={"grammar": grammar}, max_tokens=400
        )
        history.until_speaking(task_id)
        self.doomed.process.kill()
        assert history.until_ended(task_id) == "failed"
        history.until_replica("doomed", "backoff")
        history.refuse("doomed", 503, "POOL_UNAVAILABLE")

    def run_real(self) -> None:
        """The one engine whose process is the daemon's own completes a task."""
        self.history.until_replica("real", "ready")
        pin = {"mode": "pin", "pool_ids": ["real"]}
        task_id = self.history.post("real", model_ref=BUNDLED, max_tokens=4, placement=pin)
        assert self.history.until_ended(task_id) == "succeeded"


def config_text(park: Park, doomed: SimulatedEngine) -> str:
    """Write the daemon's configuration: no replica that failed comes back while the script runs."""
    rest = f"supervision: {{backoff: {{initial_ms: {ONE_DAY_MS}, max_ms: {ONE_DAY_MS}, jitter_percent: 0}}}}"

    def external(name: str, url: str, more: str = "") -> str:
        return (
            f"  - id: {name}\n    engine: llamacpp\n    model: repo:script/{name}\n    ctx: 2048\n"
            f"    launch: {{mode: external, urls: ['{url}'], allow_simulated: true}}\n    {rest}\n"
            + (f"    {more}\n" if more else "")
        )

    text = "pools:\n" + "".join(external(name, park.urls[NUMBER[name]], more) for name, more in SIMULATED.items())
    # Nobody listens at port 1.
    text += external("doomed", doomed.url, PATIENT) + external("gone", "http://127.0.0.1:1")
    # One thread and no proof of equal outputs: on a busy machine a real engine comes up slowly.
    real = (
        "allow_cpu: true\n    ctx: 256\n    determinism: best_effort\n    launch: {args: {threads: 1}}\n    " + PATIENT
    )
    for name, more in (("real", real), ("huge", "devices: ['cuda:1']")):
        text += f"  - id: {name}\n    engine: llamacpp\n    model: {BUNDLED}\n    {rest}\n    {more}\n"
    return text


def write_driver(directory: Path) -> None:
    """Write an `nvidia-smi` that answers like the driver's, for a machine with a busy GPU and a full one."""
    tool = directory / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "  --query-gpu=index,memory.free) printf '0, 4000\\n1, 7\\n' ;;\n"
        "  --query-gpu=index,utilization.gpu,memory.used,memory.free)\n"
        f"    printf '0, {GPU_BUSY_PERCENT}, {GPU_USED_MIB}, 4000\\n1, [N/A], 24000, 7\\n' ;;\n"
        "  *) exit 2 ;;\n"
        "esac\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
