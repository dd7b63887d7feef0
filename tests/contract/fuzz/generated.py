"""Generated requests: schemathesis over one file of the contract against a live daemon.

`Plan` says how much: the examples, coverage, fuzzing and stateful phases, with good and bad data, one seed for all. The
daemon's own links (`links` in the contract) and those that schemathesis finds by itself lead from a task to its stream,
its end and its explanation. Beside the library's checks each answer is judged by `answers`, each stream by `transcripts`.

Req: ORCH-4045
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import schemathesis
from schemathesis.engine import events, from_schema

from tests.contract.fuzz.answers import STREAM, answer_faults

OPENAPI = Path(__file__).resolve().parents[3] / "contracts" / "openapi"
PHASES = ("examples", "coverage", "fuzzing", "stateful")
NO_KEY_EITHER = "\n  - {}"
GATE_SEED = 20_261
GATE_EXAMPLES = 20
REQUEST_TIMEOUT_S = 30.0
MAX_FAILURES_SHOWN = 5

# A well-formed request may still ask for what this deployment does not have; then these places are named.
OF_THE_DEPLOYMENT: Mapping[str, tuple[str, ...]] = {
    "createTask": (
        "/model_ref", "/engine", "/ctx", "/workload", "/determinism", "/placement", "/prompt", "/messages", "/max_tokens", "/session_id",
    ),
    "listTasks": ("/query/cursor",),
    "getUsage": ("/query/from_day", "/query/to_day"),
    "reloadPool": ("/new_model_ref",),
}  # fmt: skip
# What the contract says of JSON in words (ORCH-4033), as no JSON Schema can.
STRICT_JSON = ("must lie between -9223372036854775807 and",)
DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class Plan:
    """How much is generated, and from which seed."""

    seed: int
    examples: int

    @classmethod
    def of_environment(cls) -> Plan:
        """Take what `make fuzz` asks for; else the gate's fixed seed and size."""
        return cls(
            int(os.environ.get("FUZZ_SEED", GATE_SEED)),
            int(os.environ.get("FUZZ_EXAMPLES", GATE_EXAMPLES)),
        )

    @property
    def patience_s(self) -> int:
        """Give the time that one run of this size may take on a slow machine."""
        return 90 + 3 * self.examples


@dataclass
class Harvest:
    """What a run brought in."""

    failures: list[str] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    streams: int = 0

    def succeeded(self) -> set[str]:
        """Name the operations that did what they are for at least once."""
        return {name for name, status in self.statuses if status < 300}

    def refused(self) -> set[int]:
        """List the statuses of refusals."""
        return {status for _, status in self.statuses if status >= 400}

    def report(self) -> str:
        """Tell the failures, each once."""
        shown = list(dict.fromkeys(self.failures))
        more = f"\n… and {len(shown) - MAX_FAILURES_SHOWN} more" if len(shown) > MAX_FAILURES_SHOWN else ""
        return "\n\n".join(shown[:MAX_FAILURES_SHOWN]) + more


def generate(
    plane: str,
    url: str,
    plan: Plan,
    *,
    key: str | None = None,
    phases: tuple[str, ...] = PHASES,
    may_be_unready: bool = False,
) -> Harvest:
    """Send what the plan says and collect what came back. `may_be_unready`: 503 is part of the game.

    Cost: about 100 requests a second.
    """
    config = schemathesis.Config.from_dict(_settings(url, plan, key, phases, may_be_unready=may_be_unready))
    harvest = Harvest()
    with tempfile.TemporaryDirectory() as folder:
        schema = schemathesis.openapi.from_path(_contract(plane, Path(folder), guarded=key is not None), config=config)
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                _gather(event, harvest)
            elif isinstance(event, events.NonFatalError):
                harvest.failures.append(f"the run itself failed at {event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                raise event.exception
    return harvest


def _settings(
    url: str, plan: Plan, key: str | None, phases: tuple[str, ...], *, may_be_unready: bool
) -> dict[str, Any]:
    """Configure the run. What answers teach is not used to make requests, so that the seed alone decides them."""
    by_phase: dict[str, dict[str, Any]] = {name: {"enabled": name in phases} for name in PHASES}
    for name in ("examples", "coverage", "fuzzing"):
        by_phase[name]["extra-data-sources"] = {"responses": False}
    by_phase["fuzzing"]["error-feedback"] = {"enabled": False}
    settings: dict[str, Any] = {
        "base-url": url,
        "seed": plan.seed,
        "workers": 1,
        "request-timeout": REQUEST_TIMEOUT_S,
        "max-stream-events": 1_000_000,
        "continue-on-failure": True,
        "output": {"sanitization": {"enabled": False}, "truncation": {"enabled": False}},
        # U+0000 is no JSON of ours (ORCH-4033), which no JSON Schema can say.
        "generation": {
            "mode": "all",
            "max-examples": plan.examples,
            "database": "none",
            "no-shrink": True,
            "allow-x00": False,
        },
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", *(["503"] if may_be_unready else [])]}},
        "phases": by_phase,
    }
    if key is not None:
        settings["auth"] = {"openapi": {"bearer": {"bearer": key}, "api_key": {"api_key": key}}}
    return settings


def _contract(plane: str, folder: Path, *, guarded: bool) -> str:
    """Copy the contract. A daemon with keys serves nobody without one; the file leaves that open."""
    for file in OPENAPI.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert text.count(NO_KEY_EITHER) == 1, f"{file}: where does it say that a key may be left out?"
        (folder / file.name).write_text(text.replace(NO_KEY_EITHER, "") if guarded else text, encoding="utf-8")
    return str(folder / f"{plane}.yaml")


def _gather(event: Any, harvest: Harvest) -> None:
    harvest.phases[event.phase.value] += len(event.recorder.interactions)
    for case_id, exchange in event.recorder.interactions.items():
        response, case = exchange.response, event.recorder.cases[case_id].value
        if response is not None:
            name = _operation_id(case) if case.method == case.operation.method.upper() else case.method
            harvest.statuses[name, response.status_code] += 1
            harvest.streams += _is_stream(response)
    for checks in event.recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                harvest.failures.append(
                    f"{check.name}: {failure.operation}\n{failure.title}: {failure.message}\n{check.failure_info.code_sample}"
                )


# Hooks: schemathesis finds them by their names.


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make most well-formed requests such that this deployment can do them, and ask for the stream of every second task."""
    well_formed = case.meta is not None and case.meta.generation.mode.is_positive
    if _operation_id(case) == "getUsage" and well_formed and case.query:
        case.query = {name: _day_near(str(text)) for name, text in case.query.items()}
    if _operation_id(case) != "createTask" or not isinstance(case.body, dict):
        return
    lot = zlib.crc32(json.dumps(case.body, sort_keys=True).encode())
    if well_formed and lot % 4:
        case.body = _feasible(case.body, lot)
    if lot % 2:
        case.headers["Accept"] = STREAM


def _day_near(text: str) -> str:
    """Turn what only has the form of a day into a day of the past, as far as it can be."""
    if not DAY.fullmatch(text):
        return text
    year, month, day = (int(part) for part in text.split("-"))
    return f"{1970 + year % 56:04}-{1 + month % 12:02}-{1 + day % 28:02}"


def _feasible(body: Mapping[str, Any], lot: int) -> dict[str, Any]:
    """Take out what depends on the deployment, and most ids, which repeat; what is left is as odd as it was."""
    strange = ["model_ref", "engine", "ctx", "placement", "determinism", "deadline_ms", "inputs", "workload"]
    if lot % 8 > 1:
        strange.append("task_id")
    kept = {name: value for name, value in body.items() if name not in strange}
    if "prompt" not in kept and "messages" not in kept:
        kept["prompt"] = str(body.get("inputs", ["hi"])[0])
    if lot % 3 == 0:
        kept["session_id"] = str(UUID(int=lot, version=4))
    return {**kept, "max_tokens": min(int(body.get("max_tokens", 16)), 32)}


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Keep a failure, unless a well-formed request was refused for what only the deployment can know.

    The library lets an event inherit the id of the one before, as a browser does; an event's own fields are judged in
    `answers_as_declared`, by the same schema.
    """
    if isinstance(failure, schemathesis.openapi.checks.JsonSchemaError) and _is_stream(response):
        return bool(_faults(case, response))
    if not isinstance(failure, schemathesis.openapi.checks.RejectedPositiveData) or response.status_code != 400:
        return True
    envelope = json.loads(response.content)
    faults = envelope.get("faults", [])
    if not faults:
        return not is_refused_by_the_engine(_operation_id(case), case.body, envelope)
    return not all(_is_excused(_operation_id(case), fault) for fault in faults)


def is_refused_by_the_engine(operation_id: str, body: Any, envelope: Mapping[str, Any]) -> bool:
    """Tell whether an accepted task came back at once from its engine, which alone can parse a grammar or a JSON Schema."""
    if operation_id != "createTask" or not isinstance(body, dict) or not {"task_id", "pool_id"} <= envelope.keys():
        return False
    sampling = body.get("sampling") or {}
    return bool(sampling.get("grammar") or sampling.get("json_schema"))


def _is_excused(operation_id: str, fault: Mapping[str, str]) -> bool:
    pointer = fault["pointer"]
    places = OF_THE_DEPLOYMENT.get(operation_id, ())
    return fault["message"].startswith(STRICT_JSON) or any(
        pointer == place or pointer.startswith(place + "/") for place in places
    )


@schemathesis.check
def answers_as_declared(_context: Any, response: Any, case: Any) -> None:
    """Judge the answer, whatever method it was asked with, by the contract; a stream by its events."""
    assert not response.stream_cut_short, f"the stream did not end within {REQUEST_TIMEOUT_S:.0f} s"
    faults = _faults(case, response)
    assert not faults, "; ".join(faults)


def _faults(case: Any, response: Any) -> list[str]:
    headers = {name: ", ".join(values) for name, values in response.headers.items()}
    began_at = response.request.headers.get("Last-Event-ID") or None
    return answer_faults(_operation_id(case), response.status_code, headers, response.content, began_at)


def _operation_id(case: Any) -> str:
    return str(case.operation.definition.raw["operationId"])


def _is_stream(response: Any) -> bool:
    return any(value.startswith(STREAM) for value in response.headers.get("content-type", []))
