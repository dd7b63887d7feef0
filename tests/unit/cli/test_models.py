"""What `orchq models` shows of each model."""

import pytest

from tests.unit.cli.running import orchq
from tests.unit.client.scripted_server import json_reply, serving

USE = {"pool_id": "default", "role": "serving", "replica_ids": ["default-0"]}
MODEL: dict[str, object] = {
    "ref": "bundled:m", "digest": "sha256:ab", "pool_ids": ["default"], "state": "verified", "detail": None, "uses": [USE],
}  # fmt: skip
KNOWN = {
    "size_bytes": 98_362_432,
    "quant": "Q4_1",
    "architecture": "llama",
    "ctx_tokens": 8192,
    "verified_at_ms": 1_764_000_000_000,
}


@pytest.mark.req("ORCH-4426")
async def test_models_tell_what_is_known_and_what_is_wrong() -> None:
    """The list shows each file's facts and notes what is refused; a part of a reference shows one model in full."""
    why = "model file /m/b.gguf is cut off: 9 of 99 bytes are missing; copy or download it again"
    refused: dict[str, object] = {
        "ref": "file:/m/b.gguf",
        "digest": None,
        "state": "refused",
        "detail": why,
        "pool_ids": [],
        "uses": [],
    }
    async with serving(lambda _: json_reply(200, {"models": [MODEL | KNOWN, refused]})) as server:
        listed = await orchq("models", url=server.url)
        shown = await orchq("models", "bundled", url=server.url)
        both = await orchq("models", "--json", url=server.url)
    good, bad = listed.out.splitlines()
    assert good.split()[:8] == ["bundled:m", "verified", "sha256:ab", "93.8", "MiB", "Q4_1", "llama", "8192"]
    assert bad.split() == ["file:/m/b.gguf", "refused", "-", "-", "-", "-", "-", "-"]
    assert listed.err == f"file:/m/b.gguf: {why}\n"
    fields = [line.split(maxsplit=1) for line in shown.out.splitlines() if line]
    assert [name for name, _ in fields] == [
        "model",
        "state",
        "digest",
        "size",
        "quantisation",
        "architecture",
        "context",
        "verified",
        "used",
    ]
    assert fields[3][1] == "93.8 MiB (98362432 bytes)"
    assert fields[-1][1].split() == ["by", "default", "serving", "on", "default-0"]
    assert len(both.out.splitlines()) == 2
