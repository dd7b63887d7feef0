"""What the configuration becomes when the daemon is put together."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import msgspec
import pytest

from orchqueue.adapters.engines.connection import encode_request
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.external import ExternalHost
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.adapters.telemetry import MetricsTelemetry
from orchqueue.composition import ConfigInForce, Ending, _decisions, _drain, _host
from orchqueue.config.loader import parse
from orchqueue.config.masking import MASK, render_yaml
from orchqueue.config.settings import to_settings
from orchqueue.core.decisions import EVERYTHING, Halted
from orchqueue.runtime.gate import NewSettings
from orchqueue.runtime.lifecycle import Runtime

FAR = b"""\
pools:
  - id: far
    engine: llamacpp
    model: repo:org/model
    launch: {mode: external, urls: ["http://a:1"], api_key_env: FAR_KEY}
"""


@pytest.mark.req("ORCH-4219")
def test_an_external_engine_gets_its_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that the named variable holds goes with every request, and shows nowhere in the configuration."""
    monkeypatch.setenv("FAR_KEY", "sk-1234")
    config = parse(FAR, "test.yaml", "/")
    host = _host(config.pools[0], tmp_path, ModelStore(), DeviceProbe(), Leftovers(tmp_path, lambda *_: None))
    assert isinstance(host, ExternalHost)
    (endpoint,) = host._endpoints.values()
    assert b"Authorization: Bearer sk-1234\r\n" in encode_request(endpoint, "GET", "/health", None)
    assert f"api_key_env: '{MASK}'" in render_yaml(config)
    assert b"sk-1234" not in msgspec.json.encode(config)


class Busy:
    """Stands for a runtime: so many looks find it at work."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.stopping = False

    def begin_shutdown(self) -> None:
        """Note it."""
        self.stopping = True

    def is_at_work(self) -> bool:
        """Count down."""
        assert self.stopping, "nothing may be waited for before new tasks are refused"
        self.looks -= 1
        return self.looks >= 0


@pytest.mark.req("ORCH-4208")
@pytest.mark.parametrize(
    ("looks", "grace_ms", "asked_again", "waited_for_it"),
    [(2, 3_600_000, False, True), (1_000_000, 0, False, False), (1_000_000, 3_600_000, True, False)],
)
async def test_what_runs_may_finish_within_the_grace(
    looks: int, grace_ms: int, asked_again: bool, waited_for_it: bool
) -> None:
    """The stop waits for what runs; the end of the grace or a second signal ends the wait."""
    ending, busy = Ending(), Busy(looks)
    ending.ask()
    if asked_again:
        ending.ask()
    await _drain(cast("Runtime", busy), ending, grace_ms)
    assert (busy.looks < 0) is waited_for_it


@pytest.mark.req("ORCH-4325", "ORCH-4326")
async def test_the_decision_file_is_opened_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file decisions go there too; one that cannot be opened costs a line in the log and nothing more."""
    monkeypatch.setenv("FAR_KEY", "sk-1234")
    for name, there in (("d.jsonl", True), ("no/d.jsonl", False)):
        config = parse(FAR + f"explain: {{file: {name}, entries: 2}}\n".encode(), "test.yaml", str(tmp_path))
        telemetry = Lines()
        async with AsyncExitStack() as stack:
            log = _decisions(config, cast("MetricsTelemetry", telemetry), stack)
            for at_ms in range(3):
                log.append(Halted(at_ms, EVERYTHING, "journal"))
        assert len(log) == 2
        assert telemetry.events == ([] if there else ["decision_file_off"])
        assert (tmp_path / name).exists() is there
    assert len((tmp_path / "d.jsonl").read_text().splitlines()) == 3


@pytest.mark.req("ORCH-4207", "ORCH-4328")
def test_one_change_of_the_configuration_can_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last adopted change goes back in one step; what was not adopted or changed nothing leaves no trace."""
    monkeypatch.setenv("FAR_KEY", "sk-1234")
    text = [FAR]
    config = parse(FAR, "test.yaml", "/")
    force = ConfigInForce(config, lambda: parse(text[-1], "test.yaml", "/"))
    assert force.revert() is None
    text.append(FAR + b"sessions: {max_turns: 2}\n")
    force.renew()
    assert force.revert() is None, "nothing was adopted yet"
    new = force.renew()
    assert isinstance(new, NewSettings)
    assert new.applied == ("/sessions/max_turns",)
    force.adopt()
    same = force.renew()
    assert isinstance(same, NewSettings)
    assert same.applied == ()
    force.adopt()
    text.append(FAR + b"sessions: {max_turns: no}\n")
    assert isinstance(force.renew(), list)
    back = force.revert()
    assert back == NewSettings(to_settings(config), ("/sessions/max_turns",), ())
    force.adopt()
    assert force.revert() is None, "one step only"
    text.append(text[1])
    again = force.renew()
    assert isinstance(again, NewSettings)
    assert again.applied == ("/sessions/max_turns",)


class Lines:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def log(self, _level: str, event: str, _fields: dict[str, str]) -> None:
        """Note it."""
        self.events.append(event)
