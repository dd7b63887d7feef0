"""What clients saw, and the counters that follow from it: written without a look at the daemon's own figures."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from typing import Any

import httpx
import msgspec

from tests.waiting import until

ENGINE = "llamacpp"
POLICIES = ("reject", "drop-lru", "shed-low-priority")

Series = dict[str, Counter[tuple[str, ...]]]


class Sent(msgspec.Struct):
    """One accepted task: which pool it was sent to and how its author says that it must end."""

    pool: str
    priority: str
    cancel: str = ""
    lost: int = 0


class History:
    """A log of requests and answers that several threads write.

    `version_of` names the engine's version in each pool, as its engine tells it.
    """

    def __init__(self, url: str, version_of: dict[str, str]) -> None:
        self.url = url
        # One for all threads: a client of its own for each request costs more than the request.
        self.client = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))
        self.version_of = version_of
        self.sent: dict[str, Sent] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.attempts: dict[str, list[dict[str, Any]]] = {}
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.refused: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def body(self, pool: str, fields: dict[str, object]) -> dict[str, object]:
        """Fill in what a task needs."""
        return {
            "task_id": str(uuid.uuid4()),
            "prompt": "tell me",
            "max_tokens": 24,
            "model_ref": f"repo:script/{pool}",
        } | fields

    def accept(self, pool: str, body: dict[str, object], cancel: str = "") -> str:
        """Note an accepted task; `cancel` is why it will be ended early."""
        task_id = str(body["task_id"])
        with self._lock:
            assert task_id not in self.sent, "a repeated request is no second task"
            self.sent[task_id] = Sent(pool, str(body.get("priority", "interactive")), cancel)
        return task_id

    def post(self, pool: str, *, cancel: str = "", **fields: object) -> str:
        """Send a task that must be accepted."""
        body = self.body(pool, fields)
        answer = self.client.post(f"{self.url}/v1/tasks", json=body, timeout=30)
        assert answer.status_code == 202, answer.text
        return self.accept(pool, body, cancel)

    def refuse(self, pool: str, status: int, code: str, **fields: object) -> None:
        """Send a task that must be refused."""
        answer = self.client.post(f"{self.url}/v1/tasks", json=self.body(pool, fields), timeout=30)
        said = answer.json()
        assert (answer.status_code, said.get("code")) == (status, code), answer.text
        with self._lock:
            self.refused.append(said)

    def task(self, task_id: str) -> dict[str, Any]:
        """Look at a task."""
        found: dict[str, Any] = self.client.get(f"{self.url}/v1/tasks/{task_id}", timeout=30).raise_for_status().json()
        return found

    def cancel(self, task_id: str) -> None:
        """Cancel a task."""
        assert self.client.post(f"{self.url}/v1/tasks/{task_id}/cancel", timeout=30).status_code == 204

    def until_speaking(self, task_id: str) -> None:
        """Wait until a task has text and runs on."""
        until(lambda: self.task(task_id).get("text"), deadline_s=30, what=f"text of {task_id}")

    def until_ended(self, task_id: str) -> str:
        """Wait for the end and give the state."""
        until(lambda: self.task(task_id)["state"] not in ("queued", "running"), deadline_s=60, what=f"end of {task_id}")
        return str(self.task(task_id)["state"])

    def replica_state(self, pool: str) -> str:
        """Look at the state of a pool's first replica."""
        health = self.client.get(f"{self.url}/v1/pools/{pool}/health", timeout=30).raise_for_status().json()
        return str(health["replicas"][0]["state"])

    def until_replica(self, pool: str, state: str) -> None:
        """Wait until a pool's first replica is in a state."""
        until(lambda: self.replica_state(pool) == state, deadline_s=60, what=f"replica of {pool} {state}")

    def collect(self) -> None:
        """Read how every task ended and on which replicas it was tried."""
        for task_id in self.sent:
            self.until_ended(task_id)
            self.ended[task_id] = self.task(task_id)
            explained = self.client.get(f"{self.url}/v1/tasks/{task_id}/explain", timeout=30).raise_for_status().json()
            assert len(explained["attempts"]) == explained["attempts_total"]
            self.attempts[task_id] = explained["attempts"]
            self.told[task_id] = explained["timeline"]

    def counters(self) -> Series:
        """Derive every counter, and how often every histogram must have been observed, from the log."""
        found: Series = {
            name: Counter()
            for name in (
                "tasks_enqueued_total", "tasks_started_total", "tasks_canceled_total", "tasks_failed_total",
                "tasks_rejected_total", "admission_backpressure_events_total", "tokens_in_total", "tokens_out_total",
                "latency_first_token_ms", "latency_decode_ms", "predicted_start_error_ms", "failovers_total", "replays_total",
            )
        }  # fmt: skip
        for said in self.refused:
            self._count_refusal(found, said)
        for task_id, sent in self.sent.items():
            self._count_task(found, task_id, sent)
        return found

    @staticmethod
    def _count_refusal(found: Series, said: dict[str, Any]) -> None:
        found["tasks_rejected_total"][ENGINE, said["code"]] += 1
        if said.get("policy_label") in POLICIES:
            found["admission_backpressure_events_total"][ENGINE, said["policy_label"]] += 1

    def _count_task(self, found: Series, task_id: str, sent: Sent) -> None:
        end, attempts = self.ended[task_id], self.attempts[task_id]
        pool = (ENGINE, self.version_of[sent.pool], sent.pool)
        ran_on = (*pool, end.get("replica_id", "-"))
        found["tasks_enqueued_total"][*pool, "-", sent.priority] += 1
        for attempt in attempts:
            found["tasks_started_total"][*pool, attempt["replica_id"], sent.priority] += 1
        if sent.cancel:
            found["tasks_canceled_total"][*ran_on, sent.cancel] += 1
        error = end.get("error")
        if error is not None:
            found["tasks_failed_total"][*ran_on, error["code"]] += 1
            if error.get("policy_label") in POLICIES:
                self._count_refusal(found, error)
        if end["tokens_out"]:
            found["tokens_out_total"][ran_on] += end["tokens_out"]
        if attempts:
            found["predicted_start_error_ms"][*pool, sent.priority] += 1
        if end["text"]:
            found["latency_first_token_ms"][*pool, sent.priority] += 1
        if end["state"] == "succeeded":
            found["tokens_in_total"][ran_on] += end["tokens_in"]
            found["latency_decode_ms"][*pool, sent.priority] += 1
        for attempt in attempts:
            if attempt.get("failure") in ("lost", "hung"):
                found["failovers_total"][self._became(attempt, attempts, end),] += 1
        for moment in self.told[task_id]:
            if moment["kind"] in ("caught_up", "diverged"):
                found["replays_total"][ENGINE, sent.pool, moment["kind"]] += 1

    @staticmethod
    def _became(attempt: dict[str, Any], attempts: list[dict[str, Any]], end: dict[str, Any]) -> str:
        """Tell what became of a task that lost its replica, from what its owner can see."""
        if attempt is not attempts[-1]:
            return "retried"
        if end["error"]["code"] == "REPLICA_EXHAUSTED":
            return "replicas_exhausted"
        if end["error"]["code"] == "DECODE_TIMEOUT":
            return "idle_timeout"
        return "engine_lost" if end["error"]["retriable"] else "poison"
