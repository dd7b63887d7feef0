"""Brings the daemon into the states that interactions begin in, through its API and the engine's wire protocol only.

What each state means is written down in `tests/contract/provider_states.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.contract.provider.deployment import POOL_ID, TOKENS_PER_S, WAIT_S, Caller, Deployment, Deployments, Kind
from tests.contract.provider.recording_proxy import RecordingProxy
from tests.waiting import until

Params = Mapping[str, object]

SERVING = Kind("serving")
LOADING = Kind("loading", engine=("--loading-ms", "86400000"), serves=False)
# An engine that fails its self-test; the breaker then rests for an hour, so that the state lasts.
BROKEN = Kind(
    "broken",
    engine=("--faults", '{"status": 500}'),
    pool="    supervision: {breaker: {failures: 1, open_ms: 3600000}}\n",
    serves=False,
)
FAULTY = Kind("faulty", launcher=Path(__file__).with_name("faulty_daemon.py"))

A_DAY_MS = 86_400_000
SILENT = {"first_token_delay_ms": A_DAY_MS}
# The simulated engine may hold text back for an event or two, never for so many.
SOME_TOKENS = 40
MANY_TOKENS: Params = {"max_tokens": 400, "sampling": {"ignore_eos": True}}
# A text that no engine can go on with in its middle, so that losing the engine once is the end of it.
BOUND_TEXT: Params = {"determinism": "best_effort", "sampling": {"grammar": f'root ::= "{"go on " * SOME_TOKENS}"'}}
SMALL_BODY = {"prompt": "hi"}


class UnknownState(Exception):
    """A pact names a state that nobody can bring about."""


class ProviderStates:
    """Enters a state before an interaction and takes everything back after it."""

    def __init__(self, deployments: Deployments, proxy: RecordingProxy) -> None:
        self._deployments = deployments
        self._proxy = proxy
        self._at: Deployment | None = None
        self._caller: Caller | None = None
        self._reconfigured = False
        self._spent = False

    def change(self, name: str, action: str, params: Params) -> None:
        """Carry out what the verifier asks for.

        Errors: UnknownState.
        """
        if name not in STATES:
            raise UnknownState(f"no provider state is called {name!r}; known: {', '.join(STATES)}")
        if action != "setup":
            self.leave()
            return
        try:
            STATES[name](self, params)
        except BaseException:
            self._spent = True  # nobody knows how far it got
            raise

    def leave(self) -> None:
        """Bring the daemon back to its start, or give it up where that cannot be done."""
        at, caller = self._at, self._caller
        self._at, self._caller = None, None
        self._proxy.heard = None
        if at is None or caller is None:
            return
        at.engine.thaw()
        operated = any(
            asked.method == "POST" and asked.target.startswith("/v1/pools/") and asked.answer.status == 202
            for asked in self._proxy.exchanges
        )
        if self._spent or operated:
            self._deployments.retire(at)
        else:
            at.calm(caller)
            if self._reconfigured:
                at.configure("")
        self._reconfigured = self._spent = False

    # daemons

    def _enter(self, kind: Kind) -> tuple[Deployment, Caller]:
        """Have the next request answered by a daemon of this kind, for a tenant that it does not know yet."""
        if self._at is None or self._caller is None:
            self._at = self._deployments.of(kind)
            self._caller = self._at.new_caller()
            self._proxy.target_url = self._at.url
            self._proxy.default_key, self._proxy.keys = self._caller.key, {}
        assert self._at.kind == kind, f"a {kind.name} daemon cannot be a {self._at.kind.name} one as well"
        return self._at, self._caller

    def _with_policy(self, pool: str) -> tuple[Deployment, Caller]:
        at, caller = self._enter(SERVING)
        at.configure(pool)
        self._reconfigured = True
        return at, caller

    def a_ready_pool(self, params: Params) -> None:
        """Use a daemon as it is."""
        self._enter(SERVING)

    def a_pool_that_is_loading(self, params: Params) -> None:
        """Use one whose engine answers its health checks with 503."""
        at, _ = self._enter(LOADING)
        _await_replica(at, "starting")

    def a_pool_without_a_live_replica(self, params: Params) -> None:
        """Use one whose engine failed until the breaker opened."""
        at, _ = self._enter(BROKEN)
        _await_replica(at, "broken")

    def a_fault_inside_the_daemon(self, params: Params) -> None:
        """Use one with a planted bug."""
        self._enter(FAULTY)

    def a_pool_whose_queue_is_full(self, params: Params) -> None:
        """Occupy the slot and every place in the queue with interactive tasks of others."""
        at, _ = self._with_policy(_queue_of_one(str(params["full_policy"])))
        _fill(at)

    def a_pool_that_was_reloaded(self, params: Params) -> None:
        """Reload it: with its own model, for an external engine has no other, but there is one to go back to."""
        at, _ = self._enter(SERVING)
        self._spent = True
        at.control(f"/v1/pools/{POOL_ID}/reload", new_model_ref=at.pool()["model"]).raise_for_status()
        until(lambda: at.health()["mode"] == "serving", deadline_s=WAIT_S, what="the end of the reload")
        until(at.is_calm, deadline_s=WAIT_S, what="the reloaded pool")

    def a_configuration_that_was_reloaded(self, params: Params) -> None:
        """Give the pool a smaller queue."""
        self._with_policy("    queue: {capacity: 9}\n")

    def a_configuration_that_was_taken_back(self, params: Params) -> None:
        """Give the pool a smaller queue, and take that back."""
        at, _ = self._with_policy("    queue: {capacity: 9}\n")
        at.control("/v1/config/rollback").raise_for_status()

    def a_configuration_file_with_a_fault(self, params: Params) -> None:
        """Leave a file with one unknown field."""
        at, _ = self._enter(SERVING)
        at.break_config("    replicaz: 1\n")
        self._reconfigured = True

    def a_tenant_with_quotas(self, params: Params) -> None:
        """Limit the caller's tenant and each of its keys."""
        at, caller = self._enter(SERVING)
        limits = f"quotas: {{concurrent_tasks: {params['concurrent_tasks']}}}"
        per_key = f"quotas_per_key: {{requests_per_s: 2.5, burst: {params['key_burst']}}}"
        at.configure("", f"tenants: [{{id: {caller.tenant}, {limits}, {per_key}}}]\n")
        self._reconfigured = True

    # keys

    def keys_are_required(self, params: Params) -> None:
        """Show no key where the interaction shows none."""
        self._enter(SERVING)
        self._proxy.default_key = None

    def a_key(self, params: Params) -> None:
        """Make a key with these scopes and have it shown in the place of the one that the pact names."""
        at, caller = self._enter(SERVING)
        scopes = params["scopes"]
        assert isinstance(scopes, list)
        real = at.make_key(caller.tenant, tuple(scopes))
        at.await_key(real)
        self._proxy.keys[str(params["key"])] = real

    # tasks

    def a_task_of_another_body(self, params: Params) -> None:
        """Take the id."""
        at, caller = self._enter(SERVING)
        at.post(caller, task_id=params["task_id"], prompt="another body", max_tokens=1)

    def a_task_that_waits(self, params: Params) -> None:
        """Let one task keep the slot and another stand before this one."""
        at, caller = self._enter(SERVING)
        _occupy(at)
        at.post(at.others)
        at.post(caller, task_id=params["task_id"], **SMALL_BODY)

    def a_task_that_was_canceled_while_it_waited(self, params: Params) -> None:
        """Cancel one that waits."""
        at, caller = self._enter(SERVING)
        _occupy(at)
        at.post(caller, task_id=params["task_id"], **SMALL_BODY)
        at.cancel(caller, str(params["task_id"]))

    def a_task_that_is_running(self, params: Params) -> None:
        """Have so many tokens written that it takes the wanted time; after the first ones wait for a reader who was told the figures.

        Whoever reads late has missed those that were told before: only what stands still cannot end meanwhile.
        """
        at, caller = self._with_policy(f"    timeouts: {{idle_ms: {A_DAY_MS}}}\n")
        remaining_ms = params["remaining_ms"]
        assert isinstance(remaining_ms, int)
        tokens = remaining_ms * TOKENS_PER_S // 1000
        sampling = {"ignore_eos": True}
        task_id = at.post(caller, task_id=params["task_id"], prompt="go on", max_tokens=tokens, sampling=sampling)
        until(lambda: at.task(caller, task_id).get("text"), deadline_s=WAIT_S, what="its first text")
        at.engine.freeze()
        read = bytearray()

        def heard(piece: bytes) -> None:
            read.extend(piece)
            if b"event: metrics\n" in read:
                at.engine.thaw()

        self._proxy.heard = heard

    def a_task_that_succeeded(self, params: Params) -> None:
        """Have exactly this text written: a grammar that allows nothing else is one that the engine knows."""
        at, caller = self._enter(SERVING)
        texts = params["texts"]
        assert isinstance(texts, list)
        grammar = f'root ::= "{"".join(texts)}"'
        task_id = at.post(caller, task_id=params["task_id"], prompt="say it", sampling={"grammar": grammar})
        assert at.await_state(caller, task_id, "succeeded", "failed")["text"] == "".join(texts)

    def a_task_that_was_refused(self, params: Params) -> None:
        """Post it to a full queue."""
        at, caller = self._with_policy(_queue_of_one("reject"))
        _fill(at)
        refused = at.ask(caller, "POST", "/v1/tasks", {"task_id": params["task_id"], **SMALL_BODY})
        assert refused.status_code == 429, refused.text

    def a_task_that_was_dropped_for_another(self, params: Params) -> None:
        """Let an interactive task take the place of this one."""
        at, caller = self._with_policy(_queue_of_one("drop-lru"))
        _occupy(at)
        task_id = at.post(caller, task_id=params["task_id"], **SMALL_BODY, priority="batch")
        at.post(at.others)
        at.await_state(caller, task_id, "failed")

    def a_task_that_failed_before_its_first_token(self, params: Params) -> None:
        """Let the engine be silent, die each time, answer 500, or let the pool be drained away under the task."""
        code = str(params["code"])
        at, caller = self._with_policy("    timeouts: {first_token_ms: 100}\n" if code == "DECODE_TIMEOUT" else "")
        match code:
            case "DECODE_TIMEOUT":
                at.engine.set_faults(**SILENT)
            case "WORKER_RESET":
                at.engine.set_faults(eof_after=1)
            case "REPLICA_EXHAUSTED":
                at.engine.set_faults(status=500)
            case "POOL_UNAVAILABLE":
                _occupy(at)
            case _:
                raise UnknownState(f"no way is known to let a task fail with {code} before its first token")
        task_id = at.post(caller, task_id=params["task_id"], **SMALL_BODY)
        if code == "POOL_UNAVAILABLE":
            self._spent = True
            at.control(f"/v1/pools/{POOL_ID}/drain", deadline_ms=0).raise_for_status()
        assert not _text_of_failed(at, caller, task_id, code)

    def a_task_that_failed_after_some_text(self, params: Params) -> None:
        """Let the engine die under a text that nobody can go on with, or fall silent however often the task is tried."""
        code = str(params["code"])
        at, caller = self._with_policy(f"    timeouts: {{idle_ms: {200 if code == 'DECODE_TIMEOUT' else A_DAY_MS}}}\n")
        match code:
            case "WORKER_RESET":
                at.engine.set_faults(eof_after=SOME_TOKENS)
                request = BOUND_TEXT
            case "DECODE_TIMEOUT":
                at.engine.set_faults(silent_after=SOME_TOKENS)
                request = MANY_TOKENS
            case _:
                raise UnknownState(f"no way is known to let a task fail with {code} after some text")
        task_id = at.post(caller, task_id=params["task_id"], prompt="begin", **request)
        assert _text_of_failed(at, caller, task_id, code)

    # sessions

    def a_session(self, params: Params) -> None:
        """Have so many turns taken."""
        at, caller = self._enter(SERVING)
        turns = params["turns"]
        assert isinstance(turns, int)
        for _ in range(turns):
            task_id = at.post(caller, session_id=params["session_id"], max_tokens=1)
            at.await_state(caller, task_id, "succeeded")


STATES: dict[str, Callable[[ProviderStates, Params], None]] = {
    "a ready pool": ProviderStates.a_ready_pool,
    "a pool that is loading": ProviderStates.a_pool_that_is_loading,
    "a pool without a live replica": ProviderStates.a_pool_without_a_live_replica,
    "a fault inside the daemon": ProviderStates.a_fault_inside_the_daemon,
    "a pool whose queue is full": ProviderStates.a_pool_whose_queue_is_full,
    "a pool that was reloaded": ProviderStates.a_pool_that_was_reloaded,
    "a configuration that was reloaded": ProviderStates.a_configuration_that_was_reloaded,
    "a configuration that was taken back": ProviderStates.a_configuration_that_was_taken_back,
    "a configuration file with a fault": ProviderStates.a_configuration_file_with_a_fault,
    "a tenant with quotas": ProviderStates.a_tenant_with_quotas,
    "keys are required": ProviderStates.keys_are_required,
    "a key": ProviderStates.a_key,
    "a task of another body": ProviderStates.a_task_of_another_body,
    "a task that waits": ProviderStates.a_task_that_waits,
    "a task that was canceled while it waited": ProviderStates.a_task_that_was_canceled_while_it_waited,
    "a task that is running": ProviderStates.a_task_that_is_running,
    "a task that succeeded": ProviderStates.a_task_that_succeeded,
    "a task that was refused": ProviderStates.a_task_that_was_refused,
    "a task that was dropped for another": ProviderStates.a_task_that_was_dropped_for_another,
    "a task that failed before its first token": ProviderStates.a_task_that_failed_before_its_first_token,
    "a task that failed after some text": ProviderStates.a_task_that_failed_after_some_text,
    "a session": ProviderStates.a_session,
}


def _await_replica(at: Deployment, state: str) -> None:
    def there() -> bool:
        replicas = at.health()["replicas"]
        assert isinstance(replicas, list)
        return all(replica["state"] == state for replica in replicas)

    until(there, deadline_s=WAIT_S, what=f"every replica {state}")


def _text_of_failed(at: Deployment, caller: Caller, task_id: str, code: str) -> str:
    """Wait until a task has failed as it was meant to."""
    task = at.await_state(caller, task_id, "failed")
    error = task["error"]
    assert isinstance(error, dict)
    assert error["code"] == code, task
    return str(task.get("text", ""))


def _queue_of_one(full_policy: str) -> str:
    return f"    queue: {{capacity: 1, full_policy: {full_policy}}}\n"


def _occupy(at: Deployment) -> None:
    """Have the one slot taken by a task that never says anything."""
    at.engine.set_faults(**SILENT)
    at.await_state(at.others, at.post(at.others), "running")


def _fill(at: Deployment) -> None:
    """Have the slot and the one place in the queue taken."""
    _occupy(at)
    at.post(at.others)
