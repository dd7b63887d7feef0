"""`orchestratord verify-engine`: the conformance suite against a server that runs already."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec

from orchqueue.adapters.engines.conformance.items import ITEMS, Item, Verdict, run_items
from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.engines.selftest import Description
from orchqueue.core.request import Workload
from orchqueue.daemon.exit_codes import ExitCode
from orchqueue.ports.errors import EngineError

_WORDS = {True: "ok", False: "FAILED", None: "-"}


class Wanted(msgspec.Struct, frozen=True):
    """What the command line names."""

    engine: str
    url: str
    model: str = ""
    api_key_env: str | None = None
    slots: int = 1
    workload: Workload = "completion"
    only: tuple[str, ...] = ()
    allow_simulated: bool = False
    as_json: bool = False


def verify_engine(wanted: Wanted) -> int:
    """Run the items one after another, each told as it ends; the exit status says whether all that apply passed.

    Req: ORCH-4433
    """
    try:
        items, key = _items(wanted.only), _api_key(wanted.api_key_env)
        endpoint = parse_endpoint(wanted.url, key)
    except (ValueError, EngineError) as error:
        print(f"orchestratord: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    description = Description(slots=wanted.slots, model_ref=wanted.model, workloads=(wanted.workload,))

    async def run() -> int:
        replica = ENGINES[wanted.engine](endpoint, description, allow_simulated=wanted.allow_simulated)
        try:
            return await _verify(replica, items, as_json=wanted.as_json)
        finally:
            await replica.close()

    return asyncio.run(run())


def list_items() -> int:
    """Print the items by name."""
    for item in ITEMS:
        print(f"{item.name:14} {item.title}")
    return ExitCode.OK


async def _verify(replica: EngineReplica, items: tuple[Item, ...], *, as_json: bool) -> int:
    try:
        if not await replica.health():
            raise EngineError(f"{replica.endpoint.url} still loads its model; try again when it is healthy")
        told = await replica.properties()
    except EngineError as error:
        print(f"orchestratord: {error}", file=sys.stderr)
        return ExitCode.ENGINE_UNREACHABLE
    if not as_json:
        strict = f"; not strict: {told.not_strict}" if told.not_strict else ""
        print(f"{replica.engine} {told.engine_version} at {replica.endpoint.url}, ctx {told.ctx}{strict}", flush=True)
    verdicts = []
    async for verdict in run_items(replica, items):
        verdicts.append(verdict)
        if not as_json:
            print(_line(verdict), flush=True)
    failed = [verdict for verdict in verdicts if verdict.passed is False]
    passed = sum(verdict.passed is True for verdict in verdicts)
    if as_json:
        facts = {"engine": replica.engine, "engine_version": told.engine_version, "items": verdicts}
        print(msgspec.json.encode(facts).decode())
    else:
        print(f"{passed} passed, {len(failed)} failed, {len(verdicts) - passed - len(failed)} not offered")
    return ExitCode.NOT_VERIFIED if failed or not passed else ExitCode.OK


def _line(verdict: Verdict) -> str:
    took = f"  {verdict.took_ms / 1000:.1f} s" if verdict.passed is not None else ""
    detail = f"\n       {verdict.detail}" if verdict.detail else ""
    return f"{_WORDS[verdict.passed]:6} {verdict.title}{took}{detail}"


def _items(only: Sequence[str]) -> tuple[Item, ...]:
    known = {item.name for item in ITEMS}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"no item is called {', '.join(unknown)}; `orchestratord verify-engine --list` names them")
    return tuple(item for item in ITEMS if not only or item.name in only)


def _api_key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(f"the environment variable {variable} is not set or empty")
    return key
