from __future__ import annotations

import re

import jsonschema_rs
import pytest

from orchqueue.verify.haiku_modes import DECOYS, MODES, ask_by_schema, ask_for_a_choice, ask_with_examples, grammar
from orchqueue.verify.haiku_words import in_words, minutes_named, new_nonce

pytestmark = pytest.mark.req("ORCH-4241", "ORCH-4413")


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("minute", [0, 7, 20, 42, 59])
def test_each_mode_tells_the_model_both_strings(mode: object, minute: int) -> None:
    """Whatever else is said, the last message names the minute and the nonce."""
    nonce = new_nonce()
    wish = MODES[mode.name].ask(in_words(minute), nonce)  # type: ignore[attr-defined]
    assert nonce in wish.messages[-1].content
    assert minute in minutes_named(wish.messages[-1].content)


@pytest.mark.parametrize("mode", ["plain", "examples"])
def test_two_modes_leave_every_word_to_the_model(mode: str) -> None:
    """Neither grammar nor schema goes along where the text says that the model was free."""
    sampling = MODES[mode].ask("six", "abcdefgh").sampling
    assert not sampling.grammar
    assert not sampling.json_schema
    assert not sampling.stop


@pytest.mark.parametrize("minute", range(60))
def test_the_examples_never_give_the_answer_away(minute: int) -> None:
    """Six examples name six other minutes and six other nonces; only the last message names those that are asked for."""
    nonce = new_nonce()
    *before, last = ask_with_examples(in_words(minute), nonce).messages
    named = minutes_named(" ".join(message.content for message in before if message.role == "user"))
    assert (len(named), minute in named) == (6, False)
    assert not [message for message in before if nonce in message.content]
    assert minute in minutes_named(last.content)


def accepts(rules: str, poem: str) -> bool:
    """Match a poem against the grammar: its rules are regular, so they unfold into one regular expression."""
    parts = dict(line.split(" ::= ", 1) for line in rules.strip().splitlines())

    def unfolded(text: str) -> str:
        out = ""
        for token in re.findall(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[a-z-]+|\{[^}]*\}|[()|?]', text):
            if token.startswith('"'):
                out += re.escape(token[1:-1].replace("\\n", "\n"))
            elif re.fullmatch(r"[a-z-]+", token):
                out += f"(?:{unfolded(parts[token])})"
            else:
                out += token
        return out

    return re.fullmatch(unfolded(parts["root"]), poem) is not None


POEMS = (
    "Snow at forty-two\nI call abcdefgh\nnobody is there",
    "I call abcdefgh\nnobody is there\nforty-two",
    "so still it is\nforty-two abcdefgh\nnobody is there",
    "so still it is\nnobody is there\nabcdefgh, rain, forty-two again",
)


@pytest.mark.parametrize("poem", POEMS)
def test_the_grammar_lets_the_strings_stand_anywhere(poem: str) -> None:
    """Both strings may stand in any line, in one line in either order, at its begin or its end."""
    assert accepts(grammar("forty-two", "abcdefgh"), poem)


@pytest.mark.parametrize("poem", POEMS)
def test_the_grammar_demands_both_strings_and_three_lines(poem: str) -> None:
    """Without one of the strings, or with a line less, no poem fits."""
    rules = grammar("forty-two", "abcdefgh")
    assert not accepts(rules, poem.replace("forty-two", "forty"))
    assert not accepts(rules, poem.replace("abcdefgh", "abcdefg"))
    assert not accepts(rules, poem.replace("\n", " ", 1))


@pytest.mark.parametrize("minute", [0, 42])
def test_the_choice_allows_any_minute_and_any_decoy(minute: int) -> None:
    """What the model was asked for is one way out of 60 times 32, and no message tells it a decoy."""
    wish = ask_for_a_choice(in_words(minute), "abcdefgh")
    rules = str(wish.sampling.grammar)
    nonces = re.findall(r'"([a-z]{8})"', rules.splitlines()[-1])
    assert len(set(nonces)) == DECOYS + 1
    assert [nonce for nonce in nonces if nonce in wish.prompt] == ["abcdefgh"]
    for chosen in range(60):
        assert accepts(rules, f"Snow at {in_words(chosen)},\n{nonces[chosen % 32]} calls again.\nso still it is")
    assert accepts(rules, "abcdefgh\nit is forty-two, you there!\nso still it is.")
    assert not accepts(rules, "Snow at forty-tw\nabcdefgh calls again\nso still it is")
    assert not accepts(rules, "Snow at forty-two\nabcdefgi calls again\nso still it is")
    assert not accepts(rules, "Snow at forty-two\nabcdefgh calls again")


def test_the_place_of_the_right_nonce_tells_nothing() -> None:
    """The nonce that is asked for stands anywhere among the decoys, first and last included."""
    rules = [str(ask_for_a_choice("six", "abcdefgh").sampling.grammar) for _ in range(2000)]
    places = {re.findall(r'"([a-z]{8})"', text.splitlines()[-1]).index("abcdefgh") for text in rules}
    assert places == set(range(DECOYS + 1))


def test_the_schema_demands_both_strings() -> None:
    """The second line holds the minute, the third the nonce, and what comes out of the JSON is the poem."""
    schema = ask_by_schema("forty-two", "abcdefgh").sampling.json_schema
    assert isinstance(schema, dict)
    good = {"first": "so still it is", "second": "at forty-two, rain", "third": "I call abcdefgh."}
    assert jsonschema_rs.is_valid(schema, good)
    assert not jsonschema_rs.is_valid(schema, {**good, "second": "at forty, rain"})
    assert not jsonschema_rs.is_valid(schema, {**good, "third": "I call"})
    assert not jsonschema_rs.is_valid(schema, {name: good[name] for name in ("first", "second")})
    text = '{"first": "so still", "second": "forty-two", "third": "abcdefgh"}'
    assert MODES["schema"].poem_of(text) == "so still\nforty-two\nabcdefgh"


@pytest.mark.parametrize("text", ["", "a plain text", '{"first": "cut', "[1]"])
def test_what_is_no_object_is_taken_as_it_is(text: str) -> None:
    """An output that is not the JSON that was demanded is judged as it came."""
    assert MODES["schema"].poem_of(text) == text
