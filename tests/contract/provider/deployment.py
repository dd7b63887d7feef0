"""A real daemon behind which a simulated engine stands, and what its operator can do to both from outside."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from orchqueue.daemon.main import main as orchestratord
from tests.daemon import ENTRY, Daemon
from tests.simulated import SimulatedEngine, pool_text
from tests.waiting import until

POOL_ID = "default"
TOKENS_PER_S = 200
WAIT_S = 30.0
OPERATOR, OTHERS = "operator", "others"
BATCH_OF_KEYS = 12
# What the daemon logs when an exception of its own ends a request, or itself.
BUGS = ("internal_error", "bug")


@dataclass(frozen=True)
class Kind:
    """How a daemon and its engine are started. `pool` is YAML of the pool, indented by four."""

    name: str
    engine: tuple[str, ...] = ()
    pool: str = ""
    launcher: Path | None = None
    serves: bool = True


@dataclass(frozen=True)
class Caller:
    """A tenant and its key."""

    tenant: str
    key: str


class Deployment:
    """One daemon with one engine, and API keys made by the operator's own command."""

    def __init__(self, kind: Kind, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self._config = directory / "orchqueue.yaml"
        self._keys_file = directory / "keys.json"
        self._made = 0
        self._spare = [self._tenant_with_key() for _ in range(BATCH_OF_KEYS)]
        self._operator = Caller(OPERATOR, self.make_key(OPERATOR, ("tasks", "control")))
        self.others = Caller(OTHERS, self.make_key(OTHERS, ("tasks",)))
        with ExitStack() as stack:
            self.engine = SimulatedEngine("--tokens-per-s", str(TOKENS_PER_S), *kind.engine)
            stack.callback(self.engine.end)
            self._write_config(kind.pool)
            entry = ENTRY if kind.launcher is None else (sys.executable, str(kind.launcher))
            self.daemon = Daemon(directory / "data", self._config, entry=entry)
            stack.callback(self.daemon.kill)
            if kind.serves:
                self.daemon.wait_ready()
            self.url = self.daemon.url
            # A client that trusts certificates reads hundreds of them first; here it speaks plain HTTP.
            self._client = stack.enter_context(httpx.Client(base_url=self.url, timeout=WAIT_S, verify=False))
            self._stack = stack.pop_all()

    def end(self) -> None:
        """Stop both.

        Errors: AssertionError when the daemon met a fault of its own that nobody planted.
        """
        self._stack.close()
        bugs = [line for line in self.daemon.log if any(f'"{event}"' in line for event in BUGS)]
        assert not bugs or self.kind.launcher is not None, "\n".join(bugs)

    # keys

    def make_key(self, tenant: str, scopes: tuple[str, ...]) -> str:
        """Make a key with the operator's command."""
        data_dir = str(self.directory / "data")
        command = ["keys", "create", "--keys-file", str(self._keys_file), "--data-dir", data_dir, "--tenant", tenant]
        said = io.StringIO()
        with redirect_stdout(said):
            status = orchestratord([*command, *(word for scope in scopes for word in ("--scope", scope)), "--json"])
        assert status == 0, f"keys create answered {status}"
        return str(json.loads(said.getvalue())["key"])

    def new_caller(self) -> Caller:
        """Give a tenant that the daemon has never heard of, with a key for everything."""
        if len(self._spare) <= BATCH_OF_KEYS // 2:
            # The daemon looks at the file once a second; by the time these are needed it has.
            self._spare += [self._tenant_with_key() for _ in range(BATCH_OF_KEYS)]
        caller = self._spare.pop(0)
        self.await_key(caller.key)
        return caller

    def await_key(self, key: str) -> None:
        """Wait until the daemon has seen the file with this key."""
        caller = Caller("", key)
        until(
            lambda: self.ask(caller, "GET", "/v1/tasks").status_code != 401,
            deadline_s=WAIT_S,
            what="a new key known to the daemon",
        )

    def _tenant_with_key(self) -> Caller:
        self._made += 1
        tenant = f"caller-{self._made}"
        return Caller(tenant, self.make_key(tenant, ("tasks", "control")))

    # configuration

    def _write_config(self, pool: str, tenants: str = "") -> None:
        text = "pools:\n" + pool_text(self.engine, pool_id=POOL_ID, more=pool) + tenants
        self._config.write_text(f"{text}auth: {{keys_file: '{self._keys_file}'}}\n")

    def configure(self, pool: str, tenants: str = "") -> None:
        """Give the running daemon other policies for its pool, and limits for tenants."""
        self._write_config(pool, tenants)
        self.control("/v1/config/reload").raise_for_status()

    def break_config(self, pool: str) -> None:
        """Leave a file that cannot be taken over."""
        self._write_config(pool)

    # calls

    def ask(
        self, caller: Caller, method: str, path: str, json: object = None, params: Mapping[str, str | int] | None = None
    ) -> httpx.Response:
        """Call the daemon's API with a caller's key."""
        headers = {"Authorization": f"Bearer {caller.key}"}
        return self._client.request(method, path, json=json, params=params, headers=headers)

    def control(self, path: str, **body: object) -> httpx.Response:
        """Steer the daemon."""
        return self.ask(self._operator, "POST", path, body)

    def pool(self) -> dict[str, Any]:
        """Read the pool's figures."""
        [found] = self.ask(self._operator, "GET", "/v1/pools").json()["pools"]
        assert isinstance(found, dict)
        return found

    def health(self) -> dict[str, object]:
        """Read the pool's health."""
        found = self.ask(self._operator, "GET", f"/v1/pools/{POOL_ID}/health").json()
        assert isinstance(found, dict)
        return found

    def post(self, caller: Caller, **request: object) -> str:
        """Have a task accepted and give its id."""
        request = {"task_id": str(uuid4()), "prompt": "hi", **request}
        answer = self.ask(caller, "POST", "/v1/tasks", request)
        assert answer.status_code == 202, f"not accepted: {answer.status_code} {answer.text}"
        return str(request["task_id"])

    def task(self, caller: Caller, task_id: str) -> dict[str, object]:
        """Look at a task."""
        found = self.ask(caller, "GET", f"/v1/tasks/{task_id}").json()
        assert isinstance(found, dict)
        return found

    def await_state(self, caller: Caller, task_id: str, *states: str) -> dict[str, object]:
        """Wait until a task is in one of these states."""
        until(
            lambda: self.task(caller, task_id)["state"] in states,
            deadline_s=WAIT_S,
            what=f"task {task_id} {' or '.join(states)}",
        )
        return self.task(caller, task_id)

    def cancel(self, caller: Caller, task_id: str) -> None:
        """Cancel a task."""
        self.ask(caller, "POST", f"/v1/tasks/{task_id}/cancel").raise_for_status()

    # back to the start

    def calm(self, *callers: Caller) -> None:
        """Cancel what goes on, take faults away, and wait until every slot is free again."""
        for caller in (*callers, self.others):
            for task_id in self._unfinished(caller):
                self.cancel(caller, task_id)
        self.engine.set_faults()
        if self.kind.serves:
            until(self.is_calm, deadline_s=WAIT_S, what="every slot free")

    def _unfinished(self, caller: Caller) -> Iterator[str]:
        # Those that wait go first: a freed slot must not begin one of them.
        for state in ("queued", "running"):
            page = self.ask(caller, "GET", "/v1/tasks", params={"state": state, "limit": 200}).json()
            yield from (str(task["task_id"]) for task in page["tasks"])

    def is_calm(self) -> bool:
        """Tell whether every replica is ready and nothing runs or waits."""
        pool = self.pool()
        depths = pool["queue_depth"]
        return bool(
            pool["replicas_ready"] == pool["replicas_total"]
            and pool["slots_free"] == pool["slots_total"] > 0
            and depths["interactive"] == depths["batch"] == 0
        )


class Deployments:
    """One deployment of each kind, begun when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[Kind, Deployment] = {}
        self._begun = 0

    def of(self, kind: Kind) -> Deployment:
        """Give the running deployment of a kind."""
        if kind not in self._running:
            self._begun += 1
            directory = self._directory / f"{kind.name}-{self._begun}"
            directory.mkdir()
            self._running[kind] = Deployment(kind, directory)
        return self._running[kind]

    def retire(self, deployment: Deployment) -> None:
        """End one that cannot be brought back to its start; the next interaction gets another."""
        del self._running[deployment.kind]
        deployment.end()

    def end(self) -> None:
        """End them all."""
        with ExitStack() as stack:
            for deployment in tuple(self._running.values()):
                stack.callback(self.retire, deployment)
