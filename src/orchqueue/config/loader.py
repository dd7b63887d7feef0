"""From a file to a checked configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources

import msgspec

from orchqueue.config.document import SIZE_LIMIT_BYTES, Document, Value, read_document
from orchqueue.config.problems import ConfigError, Path, Problem
from orchqueue.config.rules import LookAtModel, Rules
from orchqueue.config.shape import Shape
from orchqueue.config.types import Config

EMBEDDED_SOURCE = "embedded default"

Warn = Callable[[Problem], None]


def load(path: str | os.PathLike[str], warn: Warn | None = None, look_at_model: LookAtModel | None = None) -> Config:
    """Read and check a file. Relative paths in it count from its own directory.

    `warn` is told of what `compat: true` lets pass. `look_at_model` says what is wrong with model files; not asked, they may be
    any.

    Errors: ConfigError with every problem at once.
    Req: ORCH-3030, ORCH-4427
    """
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem("", 0, 0, f"the file cannot be read: {reason}", "check the path and its permissions")
        raise ConfigError(source, (problem,)) from None
    return parse(data, source, os.path.dirname(os.path.abspath(source)), warn, look_at_model)


def parse(
    data: bytes, source: str, base_dir: str, warn: Warn | None = None, look_at_model: LookAtModel | None = None
) -> Config:
    """Check YAML text that is at hand already.

    Errors: ConfigError with every problem at once.
    Req: ORCH-3030, ORCH-4199
    """
    document = read_document(data)
    problems = list(document.problems)
    if document.value is None:
        if not problems:
            problems.append(Problem("", 1, 1, "the file is empty", "start without a file for the embedded default"))
        raise ConfigError(source, tuple(problems))
    shape = Shape(document)
    known = shape.check(document.value)
    compat = isinstance(known, dict) and known.get("compat") is True
    problems += shape.problems
    if not compat:
        problems += shape.unknown
    config = None
    if isinstance(known, dict):
        config = with_absolute_paths(msgspec.convert(known, Config, strict=True), base_dir)
        problems += Rules(config, document, shape.faulty, look_at_model).check()
    if problems or config is None:
        raise ConfigError(source, tuple(sorted(problems, key=lambda problem: (problem.line, problem.column))))
    if warn is not None and compat:
        for problem in shape.unknown:
            warn(problem)
    return config


def embedded_text() -> str:
    """Give the YAML text that the daemon uses when it gets no file."""
    return resources.files("orchqueue.config").joinpath("embedded.yaml").read_text("utf-8")


def embedded_default() -> Config:
    """Load the embedded default through the same checks as any file.

    Req: ORCH-4034
    """
    return parse(embedded_text().encode(), EMBEDDED_SOURCE, os.getcwd())


def with_overrides(config: Config, *, host: str | None = None, port: int | None = None) -> Config:
    """Put what the command line said over the file, and check the rules again.

    Errors: ConfigError.
    """
    known: Value = msgspec.to_builtins(config)
    assert isinstance(known, dict)
    server = known["server"]
    assert isinstance(server, dict)
    server.update({name: value for name, value in (("host", host), ("port", port)) if value is not None})
    document = Document(known)
    shape = Shape(document)
    shape.check(_listed(known))
    if shape.problems:
        raise ConfigError("command line", tuple(shape.problems))
    changed = msgspec.convert(known, Config, strict=True)
    problems = Rules(changed, document, set()).check()
    if problems:
        raise ConfigError("command line", tuple(problems))
    return changed


def with_absolute_paths(config: Config, base_dir: str) -> Config:
    """Resolve every path in the configuration against a directory; '~' is the user's home."""

    def resolve(path: str | None) -> str | None:
        return None if path is None else os.path.normpath(os.path.join(base_dir, os.path.expanduser(path)))

    def model(reference: str) -> str:
        scheme, _, rest = reference.partition(":")
        return f"file:{resolve(rest)}" if scheme == "file" and rest else reference

    replace = msgspec.structs.replace
    tls = config.server.tls
    if tls is not None:
        tls = replace(tls, cert=resolve(tls.cert), key=resolve(tls.key))
    return replace(
        config,
        pools=tuple(replace(pool, model=model(pool.model)) for pool in config.pools),
        server=replace(config.server, tls=tls),
        auth=replace(config.auth, keys_file=resolve(config.auth.keys_file)),
        journal=replace(config.journal, path=resolve(config.journal.path)),
        explain=replace(config.explain, file=resolve(config.explain.file)),
        model_dir=resolve(config.model_dir),
    )


def _listed(value: Value) -> Value:
    """Turn tuples back into the lists that a document holds."""
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


__all__ = ["ConfigError", "Path", "embedded_default", "embedded_text", "load", "parse", "with_overrides"]
