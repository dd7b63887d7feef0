"""A running daemon: its scrape keeps the contract, its log is whole and knows no content, its keys are live."""

import json
import signal
import uuid
from pathlib import Path

import httpx
import pytest

from orchqueue.adapters.keys import KeyStore
from orchqueue.adapters.log_lines import REQUIRED
from orchqueue.adapters.metrics import read_contract
from tests.daemon import metric
from tests.simulated import serving
from tests.waiting import until
from tools.metrics_lint import CONTRACT_PATH, lint_scrape

PROMPT = "xylophone-zebra-quartz"


def stream(url: str, body: dict[str, object]) -> str:
    """Run one task and give its text."""
    answer = httpx.post(f"{url}/v1/tasks", json=body, headers={"Accept": "text/event-stream"}, timeout=20)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    return "".join(line["t"] for line in lines if "t" in line)


@pytest.mark.req(
    "ORCH-4024",
    "ORCH-4037",
    "ORCH-4079",
    "ORCH-4264",
    "ORCH-4265",
    "ORCH-4266",
    "ORCH-4267",
    "ORCH-4269",
    "ORCH-4274",
    "ORCH-4277",
    "ORCH-4278",
)
@pytest.mark.timeout(90)
def test_a_live_scrape_and_a_live_log_keep_their_contracts(tmp_path: Path) -> None:
    """After tasks that ended well, were canceled and were refused: metrics by contract, log lines whole, no content."""
    contract = read_contract(CONTRACT_PATH.read_bytes())
    with serving(tmp_path, "", "--tokens-per-s", "100") as daemon:
        text = stream(daemon.url, {"prompt": PROMPT, "max_tokens": 24, "seed": 5})
        assert len(text) > 20
        # Without an end of its own and at this pace it still runs when the cancel comes.
        endless = {"prompt": PROMPT, "max_tokens": 1500, "sampling": {"ignore_eos": True}}
        task_id = httpx.post(f"{daemon.url}/v1/tasks", json=endless, timeout=10).json()["task_id"]
        httpx.post(f"{daemon.url}/v1/tasks/{task_id}/cancel", timeout=10).raise_for_status()
        refused = httpx.post(f"{daemon.url}/v1/tasks", json={"prompt": PROMPT, "ctx": 1 << 20}, timeout=10)
        assert refused.status_code == 400
        until(lambda: metric(daemon.url, "tasks_canceled_total") == 1, what="the cancel to be counted")
        scrape = httpx.get(f"{daemon.url}/metrics", timeout=10)
        assert scrape.headers["content-type"].startswith("text/plain")
        assert list(lint_scrape(scrape.text, contract)) == []
        assert metric(daemon.url, "tasks_enqueued_total") == 2
        assert metric(daemon.url, "tokens_out_total") >= 24
        assert metric(daemon.url, "tasks_rejected_total") == 1
        until(lambda: any("task_ended" in line and task_id in line for line in daemon.log), what="the end in the log")
    lines = [json.loads(line) for line in daemon.log]
    assert {"task_accepted", "task_ended", "request"} <= {line["event"] for line in lines}
    assert [line["event"] for line in lines if not set(REQUIRED) <= set(line)] == []
    whole = "\n".join(daemon.log + daemon.said)
    assert PROMPT not in whole
    for start in range(0, len(text) - 16, 8):
        assert text[start : start + 16] not in whole
    ends = [line for line in lines if line["event"] == "task_ended"]
    assert {line["job_id"] for line in ends} >= {task_id}
    assert all(line["pool_id"] == "sim" and line["correlation_id"] for line in ends)


@pytest.mark.req("ORCH-4197")
@pytest.mark.timeout(90)
def test_keys_work_while_the_daemon_serves(tmp_path: Path) -> None:
    """With a keys file nobody is anonymous; a new key works and a revoked one stops, without a restart."""
    (tmp_path / "data").mkdir(mode=0o700)
    store = KeyStore(str(tmp_path / "keys.json"), str(tmp_path / "data"))
    _, first_key = store.create("acme", ("tasks",))
    with serving(tmp_path, "auth: {keys_file: keys.json}\n") as daemon:

        def ask(key: str | None, path: str = "/v1/tasks") -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return httpx.get(f"{daemon.url}{path}", headers=headers, timeout=10).status_code

        assert (ask(None), ask(first_key), ask(first_key + "x")) == (401, 200, 401)
        assert ask(first_key, "/v1/pools") == 403
        record, key = store.create("zoo", ("tasks", "control"))
        until(lambda: ask(key) == 200, what="the new key to be known")
        assert ask(key, "/v1/pools") == 200
        assert ask(key, f"/v1/tasks/{uuid.uuid4()}") == 404
        store.revoke(record.id)
        until(lambda: ask(key) == 401, what="the revoked key to be refused")
        assert ask(first_key) == 200
    whole = "\n".join(daemon.log + daemon.said)
    assert first_key not in whole
    assert key.split("_", 2)[2] not in whole


@pytest.mark.req("ORCH-4205", "ORCH-4207")
@pytest.mark.timeout(90)
def test_a_broken_file_is_told_field_by_field_on_reload_and_changes_nothing(tmp_path: Path) -> None:
    """A reload tells the same problems as `check`, with JSON pointers; the old configuration stays."""
    with serving(tmp_path) as daemon:
        config = tmp_path / "orchqueue.yaml"
        good = config.read_text(encoding="utf-8")
        config.write_text(good + "server: {port: -1}\nsevrer: 1\n", encoding="utf-8")
        refused = httpx.post(f"{daemon.url}/v1/config/reload", timeout=10)
        assert refused.status_code == 400
        assert [fault["pointer"] for fault in refused.json()["faults"]] == ["/server/port", "/sevrer"]
        assert stream(daemon.url, {"prompt": "a", "max_tokens": 4})
        config.write_text(good + "logging: {level: error}\n", encoding="utf-8")
        waiting = httpx.post(f"{daemon.url}/v1/config/reload", timeout=10)
        assert waiting.json() == {"applied": [], "needs_restart": ["/logging/level"]}
        config.write_text(good + "    queue: {capacity: 9}\n", encoding="utf-8")
        taken = httpx.post(f"{daemon.url}/v1/config/reload", timeout=10)
        assert taken.json()["applied"] == ["/pools/0/queue/capacity"]
        back = httpx.post(f"{daemon.url}/v1/config/rollback", timeout=10)
        assert back.json() == {"applied": ["/pools/0/queue/capacity"], "needs_restart": []}
        pools = httpx.get(f"{daemon.url}/v1/pools", timeout=10).json()["pools"]
        assert pools[0]["queue_capacity"] != 9
        assert httpx.post(f"{daemon.url}/v1/config/rollback", timeout=10).status_code == 409


@pytest.mark.req("ORCH-4205", "ORCH-4206")
@pytest.mark.timeout(90)
def test_a_reload_by_signal_tells_in_the_log_what_the_call_would_answer(tmp_path: Path) -> None:
    """Every problem with its pointer and line, or what waits for a restart."""
    with serving(tmp_path) as daemon:
        config = tmp_path / "orchqueue.yaml"
        good = config.read_text(encoding="utf-8")

        def detail_of(text: str, event: str) -> str:
            config.write_text(good + text, encoding="utf-8")
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: any(event in line for line in daemon.log), what=event)
            return str(next(json.loads(line)["detail"] for line in daemon.log if event in line))

        told = detail_of("server: {port: -1}\nsevrer: 1\n", "config_refused")
        assert "nothing was changed: /server/port: line " in told
        assert "/sevrer: line " in told
        waiting = detail_of(
            "server: {port: 0, shutdown_grace_ms: 7}\nlogging: {level: error}\n", "config_needs_restart"
        )
        assert "/logging/level" in waiting
