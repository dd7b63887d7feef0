"""`orchq models`: which models there are, whether their files are the right ones, and who uses them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context

if TYPE_CHECKING:
    from orchqueue.client.types import ModelInfo, ModelUse

DETAILS = """examples:
  orchq models                every model, its checksum and what uses it
  orchq models REF            the models with this in their reference, one field a line
  orchq models --json | jq -r .digest

A model is verified when its checksum was right, verifying while that is computed, refused when its file is not to be
served, and external where its engines run elsewhere: then their word is all that there is."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the optional reference."""
    parser.add_argument("ref", nargs="?", default="", metavar="REF", help="show those whose reference contains this")


async def execute(context: Context, args: Namespace) -> int:
    """Print every model in brief, or some in full; then what is wrong with which.

    Req: ORCH-4426
    """
    output = context.output
    async with context.client() as client:
        models = [model for model in await client.models() if args.ref in model.ref]
    if context.as_json:
        for model in models:
            output.record(model)
        return 0
    if args.ref:
        for model in models:
            output.table(("FIELD", "VALUE"), _fields(model))
            output.line("")
        return 0
    rows = [
        (
            model.ref,
            model.state,
            model.digest or "-",
            _size(model.size_bytes) if model.size_bytes else "-",
            model.quant or "-",
            model.architecture or "-",
            model.ctx_tokens or "-",
            _users(model),
        )
        for model in models
    ]
    output.table(("MODEL", "STATE", "DIGEST", "SIZE", "QUANT", "ARCHITECTURE", "CTX", "USED BY"), rows)
    for model in models:
        if model.detail:
            output.note(f"{model.ref}: {model.detail}")
    return 0


def _fields(model: ModelInfo) -> list[tuple[str, str | int]]:
    fields: list[tuple[str, str | int | None]] = [
        ("model", model.ref),
        ("state", model.state),
        ("detail", model.detail),
        ("digest", model.digest),
        ("size", f"{_size(model.size_bytes)} ({model.size_bytes} bytes)" if model.size_bytes else None),
        ("quantisation", model.quant or None),
        ("architecture", model.architecture or None),
        ("context", f"{model.ctx_tokens} tokens" if model.ctx_tokens else None),
        ("verified", _instant(model.verified_at_ms) if model.verified_at_ms else None),
        *(("used by", _use(use)) for use in model.uses),
    ]
    return [(name, value) for name, value in fields if value is not None]


def _users(model: ModelInfo) -> str:
    return "; ".join(_use(use) for use in model.uses) or "-"


def _use(use: ModelUse) -> str:
    ready = f" on {','.join(use.replica_ids)}" if use.replica_ids else ""
    return f"{use.pool_id} {use.role}{ready}"


def _size(size_bytes: int) -> str:
    """Round to what a person reads.

    >>> _size(98_362_432), _size(4_096)
    ('93.8 MiB', '4.0 KiB')
    """
    unit = next((unit for unit in ("GiB", "MiB") if size_bytes >= _UNITS[unit]), "KiB")
    return f"{size_bytes / _UNITS[unit]:.1f} {unit}"


def _instant(unix_ms: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")


_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
COMMANDS = (("models", "show the models and where they are used", DETAILS, add_arguments, execute),)
