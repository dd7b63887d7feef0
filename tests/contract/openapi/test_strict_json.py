"""Bodies are JSON with one meaning, or faults that say where."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchqueue.schema.contract import JsonValue
from orchqueue.schema.strict_json import DEPTH_MAX, FAULTS_MAX, INTEGER_MAX, VALUES_MAX, decode_json

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(CHARACTERS), inner),
)


def told(body: bytes) -> list[tuple[str, str]]:
    """Decode what must be refused; give pointers and messages."""
    value, faults = decode_json(body)
    assert value is None
    assert faults
    return [(fault.pointer, fault.message) for fault in faults]


@pytest.mark.req("ORCH-4033")
@given(VALUES, st.booleans())
def test_any_value_comes_back(value: JsonValue, ascii_only: bool) -> None:
    """Whatever JSON can say is read as it was written, escaped or not."""
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert decode_json(body) == (value, [])


@pytest.mark.req("ORCH-4033")
@given(VALUES, st.data())
@example({"a": [1, {"b": "\u20ac"}]}, None)
def test_damaged_bytes_never_raise(value: JsonValue, data: st.DataObject | None) -> None:
    """A body with bytes changed, cut out or put in is a value or faults, never an exception or both."""
    body = bytearray(json.dumps(value, ensure_ascii=False).encode())
    if data is not None:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(body)))
            size = data.draw(st.integers(0, 3))
            body[place : place + size] = data.draw(st.binary(max_size=4))
    decoded, faults = decode_json(bytes(body))
    assert not faults or decoded is None
    assert len(faults) <= FAULTS_MAX
    json.dumps([[fault.pointer, fault.message] for fault in faults], ensure_ascii=False).encode()
    if not faults:
        assert decoded == json.loads(body.decode())


@pytest.mark.req("ORCH-4033")
@given(st.binary(max_size=64))
def test_any_bytes_never_raise(body: bytes) -> None:
    """Bytes without any sense are faults."""
    value, faults = decode_json(body)
    assert not faults or value is None


@pytest.mark.req("ORCH-4033")
@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b"", [("", "must be JSON; the body is empty")]),
        (b" \n", [("", "must be JSON; the body is empty")]),
        (b"\xff", [("", "must be UTF-8; byte 0 is not")]),
        (b'"\xed\xa0\x80"', [("", "must be UTF-8; byte 1 is not")]),
        (b"\xef\xbb\xbf{}", [("", "must be JSON; line 1 column 1: Expecting value")]),
        (b"{} x", [("", "must be JSON; line 1 column 4: Extra data")]),
        (b'{"a":1', [("", "must be JSON; line 1 column 7: Expecting ',' delimiter")]),
        (b'"a\x00b"', [("", "must be JSON; line 1 column 3: Invalid control character at")]),
        (b'{"a":{"b":1,"b":2}}', [("/a/b", "must be named only once in its object")]),
        (
            b"[NaN,-Infinity]",
            [(f"/{i}", f"must be a number; {name} is not JSON") for i, name in enumerate(["NaN", "-Infinity"])],
        ),
        (b"[1e999]", [("/0", "must be a number that fits into 64 bits")]),
        (b"[9223372036854775808]", [("/0", f"must lie between -{INTEGER_MAX} and {INTEGER_MAX}")]),
        (b"9" * 5000, [("", "must be written with at most 64 characters")]),
        (rb'["\ud83d"]', [("/0", "must not contain half of a surrogate pair")]),
        (rb'{"\udc00":1}', [("/\ufffd", "must not contain half of a surrogate pair")]),
        (rb'{"a/b~":"\u0000"}', [("/a~1b~0", "must not contain U+0000")]),
    ],
)
def test_what_has_no_one_meaning_is_refused(body: bytes, faults: list[tuple[str, str]]) -> None:
    """Each kind of doubtful body is refused with its place."""
    assert told(body) == faults


@pytest.mark.req("ORCH-4020", "ORCH-4033")
def test_all_faults_are_told_at_once_in_order() -> None:
    """Faults of several kinds stand in one answer, in the order of the body."""
    assert [where for where, _ in told(rb'{"a":NaN,"b":["\ud800",{"c":1,"c":1e999}],"a":2}')] == [
        "/a",
        "/b/0",
        "/b/1/c",
        "/b/1/c",
    ]


@pytest.mark.req("ORCH-4033")
def test_a_pair_of_surrogates_is_a_character() -> None:
    """An escaped pair is read as the character that it names."""
    assert decode_json(rb'"\ud83d\ude00"') == ("\U0001f600", [])


@pytest.mark.req("ORCH-4033")
@pytest.mark.parametrize(("text", "value"), [("1.0", 1), ("1e3", 1000), ("-0.0", 0), ("1.5", 1.5), ("1e300", 1e300)])
def test_a_whole_number_is_an_integer(text: str, value: float) -> None:
    """A number without a fractional part is an int however it is written, as long as that is exact."""
    decoded, faults = decode_json(text.encode())
    assert (decoded, type(decoded), faults) == (value, type(value), [])
    assert not (isinstance(decoded, float) and math.isinf(decoded))


@pytest.mark.req("ORCH-4033")
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_bounded(opening: bytes, closing: bytes) -> None:
    """64 levels are read, 65 and as many as values are allowed are refused."""
    assert decode_json(opening * DEPTH_MAX + b"1" + closing * DEPTH_MAX)[1] == []
    for levels in (DEPTH_MAX + 1, VALUES_MAX - 1):
        assert told(opening * levels + b"1" + closing * levels)[0][0] == ""


@pytest.mark.req("ORCH-4033")
def test_the_number_of_values_is_bounded_but_not_of_characters() -> None:
    """Fifty thousand separators are too many as structure and nothing special inside a string."""
    assert told(b"[" + b"1," * VALUES_MAX + b"1]") == [("", f"must hold at most {VALUES_MAX} values")]
    text = '[1],{}\\"' * VALUES_MAX
    assert decode_json(json.dumps(text).encode()) == (text, [])


@pytest.mark.req("ORCH-4071")
def test_quotes_without_an_end_cost_no_more_than_others() -> None:
    """A body of escaped quotes and separators that never ends its string is refused, and soon enough for this test's limit."""
    assert told(b'"' + b'\\",' * 1_000_000)[0][1].startswith("must be JSON")


@pytest.mark.req("ORCH-4020")
def test_the_report_is_bounded() -> None:
    """A thousand faults are told as 32, and a long key does not come back whole."""
    assert len(told(b"[" + b"NaN," * 1000 + b"NaN]")) == FAULTS_MAX
    twice = b",".join(b'"%d":0' % (key // 2) for key in range(200))
    assert len(told(b"{" + twice + b"}")) == FAULTS_MAX
    [(pointer, _)] = told(b'{"' + b"k" * 5000 + b'":NaN}')
    assert len(pointer) < 100
