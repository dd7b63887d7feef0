"""Runs are compared by bytes, told apart by tokens, and kept in a form that can be read again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchqueue.verify.comparison import NotComparable, compare
from orchqueue.verify.snapshot import Snapshot, dump, parse
from orchqueue.verify.telling import token_diff
from tests.unit.verify.snapshots import snapshot

SECOND: dict[str, Any] = {"pool_id": "second", "replica_id": "second-0"}


@pytest.mark.req("ORCH-4287")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (snapshot(), snapshot(decode_ms=99, **SECOND)),
        (snapshot(["a", " b", " c"]), snapshot(["a b", " ", "c"], tokens_out=3)),
        (snapshot([], tokens_out=0), snapshot([], tokens_out=0)),
    ],
)
def test_time_place_and_cuts_are_no_difference(one: Snapshot, other: Snapshot) -> None:
    """The same bytes are equal wherever they ran, however long it took, and in whatever pieces they came."""
    assert compare(one, other) is None


@pytest.mark.req("ORCH-4287")
@pytest.mark.parametrize(
    ("one", "other", "at", "tokens", "byte_offset"),
    [
        (["a", " b", " c"], ["a", " b", " x"], (2, 2), (" c", " x"), 4),
        (["a", " b", " c"], ["a", " b"], (2, 2), (" c", None), 3),
        (["é", "🍒", "b"], ["é🍒", "c"], (2, 1), ("b", "c"), 6),
        (["a" * 10] * 40, ["a" * 10] * 39 + ["b"], (39, 39), ("a" * 10, "b"), 390),
        (["x"], ["y"], (0, 0), ("x", "y"), 0),
    ],
)
def test_divergence_is_told_by_its_token(
    one: list[str],
    other: list[str],
    at: tuple[int, int],
    tokens: tuple[str | None, str | None],
    byte_offset: int,
) -> None:
    """The first token that differs is named in each run, also past the first 32 and where the pieces are cut otherwise."""
    found = compare(snapshot(one), snapshot(other, **SECOND))
    assert found is not None
    assert (found.one.token_index, found.other.token_index) == at
    assert (found.one.token, found.other.token) == tokens
    assert found.byte_offset == byte_offset


@pytest.mark.req("ORCH-4287")
def test_the_same_text_that_ends_otherwise_is_a_difference() -> None:
    """An engine that counts or ends otherwise did not do the same."""
    found = compare(snapshot(), snapshot(finish_reason="stop", tokens_out=4))
    assert found is not None
    assert (found.one.token, found.other.token) == (None, None)


@pytest.mark.req("ORCH-4287")
@pytest.mark.parametrize("field", ["engine", "engine_version", "model_digest", "prompt", "params_digest"])
def test_runs_of_different_things_are_not_compared(field: str) -> None:
    """Another engine, version, model, prompt or set of parameters promises nothing, and the message says which it was."""
    with pytest.raises(NotComparable, match=f"{field} is .* and 'other'"):
        compare(snapshot(), msgspec.structs.replace(snapshot("x"), **{field: "other"}))


@pytest.mark.req("ORCH-4287")
def test_the_diff_reads_well() -> None:
    """A person sees the seed, the prompt, both contexts, both tokens, what came after and both ends."""
    found = compare(snapshot("the sea is large and blue"), snapshot("the sea is full of fish", **SECOND))
    assert found is not None
    told = token_diff(found).splitlines()
    assert told[0] == "seed 1001: first-0 and second-0 part at token 3, byte 11"
    assert told[1:5] == [
        "  prompt               'p'",
        "  before, in both      'the' ' sea' ' is'",
        "  first-0              token 3 ' large', then ' and' ' blue'",
        "  second-0             token 3 ' full', then ' of' ' fish'",
    ]
    assert told[5].startswith("  first-0              6 tokens, ended by length, sha256 ")
    assert told[-1] == "  log-probabilities    none: the API does not give any"


@pytest.mark.req("ORCH-4287")
def test_the_diff_of_one_replica_with_itself_tells_the_runs_apart() -> None:
    """The later run of the same replica is called so, and contexts that were cut otherwise are both shown."""
    found = compare(snapshot(["a", " b", " c"]), snapshot(["a b"]))
    assert found is not None
    told = token_diff(found)
    assert told.startswith("seed 1001: first-0 and first-0 again part at token 2, byte 3\n")
    assert "  before, on first-0   'a' ' b'\n  before, on first-0 again 'a b'\n" in told
    assert "  first-0 again        ended after 1 tokens\n" in told


@pytest.mark.req("ORCH-4287", "ORCH-4401")
def test_snapshots_are_read_as_they_were_written() -> None:
    """One snapshot a line, whatever line-like characters the text holds."""
    runs = [snapshot(), snapshot(["a\u2028b\x85c\n", "🙂\r"], seed=1002)]
    assert parse(dump(runs)) == runs
    assert parse("") == []


@pytest.mark.req("ORCH-4401")
def test_a_snapshot_has_the_fields_of_the_format() -> None:
    """Engine, version, model, seed, the first 32 tokens, digest and time are there under their names; the rest stands apart."""
    written = msgspec.json.decode(dump([snapshot(["x"] * 40)]), type=dict[str, object])
    assert {"engine", "engine_version", "model_digest", "seed", "first_tokens", "digest", "decode_ms"} <= set(written)
    assert written["first_tokens"] == ["x"] * 32
    assert written["later_tokens"] == ["x"] * 8


@pytest.mark.req("ORCH-4401")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"seed":1}', "line 2 is not a snapshot"),
        ("", "line 2 is not a snapshot"),
        (dump([snapshot("x y", digest="0" * 64)]).strip(), "line 2: the digest of seed 1001 is not that of its text"),
    ],
)
def test_a_broken_snapshot_is_named_by_its_line(line: str, told: str) -> None:
    """A line that is no snapshot, and one whose text was changed, are refused."""
    with pytest.raises(ValueError, match=told):
        parse(dump([snapshot()]) + line + "\n")
