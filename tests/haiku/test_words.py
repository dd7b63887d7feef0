from __future__ import annotations

import datetime as dt
import time
import zoneinfo

import pytest

from orchqueue.verify.haiku_words import folded, in_words, lines_of, minute_now, minute_of, minutes_named, new_nonce

pytestmark = pytest.mark.req("ORCH-4241")
NOON = dt.datetime(2026, 11, 28, 12, 17, 30, tzinfo=dt.UTC)
HYPHENS = "\u002d\u00ad\u02d7\u058a\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u2212\u2e3a\ufe58\ufe63\uff0d"


@pytest.mark.parametrize("minute", range(60))
def test_every_minute_is_found_by_its_words_and_no_other(minute: int) -> None:
    """Each of the 60 minutes reads back as itself, and as nothing else."""
    assert minutes_named(f"At {in_words(minute)}, rain.") == {minute}


def test_the_minutes_have_sixty_different_words() -> None:
    """No two minutes are written alike."""
    assert len({in_words(minute) for minute in range(60)}) == 60


@pytest.mark.parametrize("hyphen", [*HYPHENS, " ", "\u00a0", "\u2009", "\n", " - "])
def test_every_kind_of_hyphen_and_space_joins_a_minute(hyphen: str) -> None:
    """A minute of two words is the same minute whichever hyphen or space its writer took, in any case."""
    assert minutes_named(f"it is Forty{hyphen}TWO now") == {42}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sixteen", {16}),
        ("twenty-six", {26}),
        ("twenty, six", {20, 6}),
        ("twenty twenty-two", {20, 22}),
        ("forty-twofold", {40}),
        ("often, none, bone, twenties", set()),
        ("\uff34\uff37\uff25\uff2c\uff36\uff25", {12}),
        ("tw\u200belve", {12}),
        ("fifty-ten", {50, 10}),
        ("zero and thirty-zero", {0, 30}),
        ("", set()),
    ],
)
def test_words_of_another_minute_are_told_apart(text: str, named: set[int]) -> None:
    """A word inside a longer word, or a unit that belongs to a ten, is not that minute."""
    assert minutes_named(text) == named


def test_folding_keeps_a_nonce_findable() -> None:
    """Case, width and invisible characters do not hide a nonce."""
    assert "abcdefgh" in folded("the \uff21Bc\u00addE\u2060f\u200dGH".replace("\u00ad", ""))


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns", "UTC", "Nowhere/At_All"])
def test_the_minute_is_amsterdams_whatever_the_machines_zone_says(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose own clock is 45 or 30 minutes off reads the same minute as Amsterdam's."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert minute_of(NOON) == 17
        assert minute_of(NOON.astimezone()) == 17
        assert minute_now() in {dt.datetime.now(dt.UTC).minute, (dt.datetime.now(dt.UTC).minute - 1) % 60}
    finally:
        monkeypatch.undo()
        time.tzset()


def test_without_zone_data_the_minute_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no data of zones reads the minute from UTC, which is Amsterdam's."""

    def unknown(key: str) -> zoneinfo.ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(key)

    with_data = [minute_of(NOON + dt.timedelta(days=day, minutes=day)) for day in range(400)]
    monkeypatch.setattr(zoneinfo, "ZoneInfo", unknown)
    assert [minute_of(NOON + dt.timedelta(days=day, minutes=day)) for day in range(400)] == with_data


def test_nonces_are_eight_letters_and_never_the_same() -> None:
    """A thousand nonces are a thousand different strings of 8 lower-case letters."""
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert all(len(nonce) == 8 and nonce.isascii() and nonce.isalpha() and nonce.islower() for nonce in nonces)


def test_a_line_without_a_word_is_no_line() -> None:
    """Blank lines, dots and numbers make no poem longer."""
    assert lines_of("one heron\n\n...\n 12 \n  it waits \r\n") == ["one heron", "it waits"]
