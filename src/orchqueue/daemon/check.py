"""`orchestratord check`: every problem of a file, before anything is started."""

from __future__ import annotations

import sys

import msgspec

from orchqueue.config.loader import load
from orchqueue.config.problems import ConfigError, Problem
from orchqueue.config.settings import replica_count
from orchqueue.daemon.exit_codes import ExitCode


def check(path: str, *, as_json: bool) -> int:
    """Print every problem with its place; tell in one line when there is none.

    Req: ORCH-4031
    """
    tolerated: list[Problem] = []
    try:
        config = load(path, tolerated.append)
    except ConfigError as error:
        print(_json(error.problems) if as_json else error.render())
        return ExitCode.BAD_INPUT
    for problem in tolerated:
        print(f"{problem.render(path)} (let pass by compat: true)", file=sys.stderr)
    if as_json:
        print(_json(()))
    else:
        replicas = sum(replica_count(pool) for pool in config.pools)
        print(f"{path}: good: {len(config.pools)} pool(s), {replicas} replica(s)")
    return ExitCode.OK


def _json(problems: tuple[Problem, ...]) -> str:
    return msgspec.json.encode(problems).decode()
