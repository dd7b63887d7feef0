"""`orchestratord check`: every problem of a file, before anything is started."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from pathlib import Path

import msgspec

from orchqueue.adapters.model_file import ModelFileError, look_at_gguf
from orchqueue.adapters.models import ModelStore, find_bundled
from orchqueue.config.loader import load
from orchqueue.config.problems import ConfigError, Problem
from orchqueue.config.settings import replica_count
from orchqueue.config.types import Pool
from orchqueue.daemon.exit_codes import ExitCode
from orchqueue.ports.errors import ProcessError


def check(path: str, *, as_json: bool, checksums: bool = False) -> int:
    """Print every problem with its place; tell in one line when there is none.

    Req: ORCH-4031, ORCH-4427
    """
    tolerated: list[Problem] = []
    try:
        config = load(path, tolerated.append, _compare if checksums else _look)
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


def _look(pool: Pool, _model_dir: str | None) -> tuple[str, str] | None:
    """Look at a pool's model without reading it whole; one that is named by its content cannot be found so."""
    form, _, rest = pool.model.partition(":")
    try:
        if form != "sha256":
            look_at_gguf(Path(rest) if form == "file" else find_bundled(rest)[0])
    except ModelFileError as error:
        return error.problem, error.advice
    except ProcessError as error:
        return _split(error)
    return None


def _compare(pool: Pool, model_dir: str | None) -> tuple[str, str] | None:
    try:
        asyncio.run(_store(model_dir).verify(pool.model, pool.model_sha256, look_at_gguf))
    except ProcessError as error:
        return _split(error)
    return None


@cache
def _store(model_dir: str | None) -> ModelStore:
    """Keep one store, so that a file that several pools name is read once."""
    return ModelStore(Path(model_dir) if model_dir is not None else None)


def _split(error: ProcessError) -> tuple[str, str]:
    problem, _, advice = str(error).rpartition("; ")
    return (problem, advice) if problem else (advice, "see docs/models.md")


def _json(problems: tuple[Problem, ...]) -> str:
    return msgspec.json.encode(problems).decode()
