"""Each way to cheat is planted into a deployment or a checkout, and exactly the rules that forbid it trip."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchqueue.client.errors import Forbidden
from orchqueue.verify import haiku as asking
from orchqueue.verify.haiku import Haiku
from orchqueue.verify.haiku_counting import tokens_out
from orchqueue.verify.haiku_rules import RULES, Evidence, judge
from tests.haiku.deployment import Deployment, honest, verified, wished

Text = Callable[[dict[str, Any]], str]
pytestmark = pytest.mark.req("ORCH-4411", "ORCH-4412")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a repository with one innocent file."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "README").write_text("forty-two is the answer\n")
    return tmp_path


def broken(haiku: Haiku) -> set[str]:
    """Name the rules that were broken."""
    return {finding.rule for finding in haiku.findings if finding.passed is False}


def reason(haiku: Haiku, rule: str) -> str:
    """Return what a rule says."""
    return next(finding.reason for finding in haiku.findings if finding.rule == rule)


async def test_an_honest_deployment_keeps_every_rule(checkout: Path) -> None:
    """Nothing is broken, nothing is left out, and one task with deadline, seed and no cache of ours was asked."""
    deployment = Deployment()
    haiku = await verified(deployment, checkout)
    assert [finding for finding in haiku.findings if finding.passed is not True] == []
    assert [finding.rule for finding in haiku.findings] == [name for name, _ in RULES]
    assert haiku.verified
    assert haiku.times_asked == len(deployment.requests) == 1
    [request] = deployment.requests
    assert request["deadline_ms"] == 80_000
    assert 1 <= request["seed"] < 2**31
    assert wished(request) == ("forty-two", haiku.evidence.nonce)


def prompt_of(asked: dict[str, Any]) -> str:
    """Repeat what was asked."""
    return "\n".join(message["content"] for message in asked["messages"])


def in_lines(asked: dict[str, Any]) -> str:
    """Repeat what was asked, broken into lines."""
    return prompt_of(asked).replace(" ", "\n")


def other_minute(asked: dict[str, Any]) -> str:
    """Write of another minute."""
    return honest(asked).replace("forty-two", "forty-three")


CHEATS: Sequence[tuple[Deployment, set[str], str]] = (
    (Deployment(write=prompt_of), {"three_lines", "minute", "nonce", "no_echo"}, "nothing is left when the prompt"),
    (Deployment(write=in_lines), {"no_echo"}, "every line of it stood in the prompt"),
    (Deployment(write=lambda _: ""), {"three_lines", "minute", "nonce", "no_echo"}, "nothing is left"),
    (Deployment(write=lambda it: honest(it).replace(",\n", ", ", 1)), {"three_lines"}, "2 lines"),
    (Deployment(write=other_minute), {"minute"}, "does not stand in it, but forty-three"),
    (Deployment(write=lambda it: honest(it).replace("forty-two", "forty")), {"minute"}, "but forty"),
    (Deployment(write=lambda it: honest(it).replace("forty-two", "42")), {"minute"}, "does not stand in it"),
    (Deployment(write=lambda it: honest(it).replace(wished(it)[1], wished(it)[1][:7])), {"nonce"}, "does not stand"),
    (Deployment(write=lambda _: "At forty-two\nthe crane says abcdefgh\nagain"), {"nonce"}, "does not stand"),
    (Deployment(digest="0" * 64), {"answered", "real_engine", "three_lines", "minute", "nonce", "no_echo", "fresh",
                                   "visible", "counted"}, ""),
    (Deployment(attempts=0), {"fresh"}, "no engine began this task"),
    (Deployment(seed=4711), {"fresh"}, "seed"),
    (Deployment(counts=0), {"counted"}, "tokens_out_total rose by 0, the task has 20"),
    (Deployment(counts=19), {"counted"}, "tokens_out_total rose by 19, the task has 20"),
    (Deployment(tokens_out=0), {"counted"}, "the task has 0"),
    (Deployment(started_model=""), {"visible"}, "began and ended with different ones"),
    (Deployment(started_version="other"), {"visible"}, "began and ended with different ones"),
    (Deployment(started_version="", receipt_version=""), {"real_engine", "visible"}, "no engine said what it is"),
    (Deployment(capabilities_version="other"), {"visible"}, "the capabilities other"),
    (Deployment(health_model="cd" * 32), {"visible"}, "the pool's health"),
    (Deployment(started_version="b0-simulated", receipt_version="b0-simulated", capabilities_version="b0-simulated"),
     {"real_engine"}, "simulated engines write no poems"),
    (Deployment(capabilities_version="tgi-Simulated"), {"real_engine", "visible"}, "simulated engines write no poems"),
)  # fmt: skip


@pytest.mark.parametrize(("planted", "rules", "said"), CHEATS)
async def test_a_planted_cheat_trips_its_rule(planted: Deployment, rules: set[str], said: str, checkout: Path) -> None:
    """The deployment lies in one thing; the rules that forbid it are broken, no others, and one says what it saw."""
    haiku = await verified(planted, checkout)
    assert broken(haiku) == rules
    assert not haiku.verified
    assert any(said in reason(haiku, rule) for rule in rules)


async def test_a_prompt_repeated_in_front_of_a_poem_is_taken_out(checkout: Path) -> None:
    """An engine that repeats the prompt before it writes is judged by what it wrote."""
    fine = await verified(Deployment(write=lambda it: f"{prompt_of(it)}\n{honest(it)}"), checkout)
    assert fine.verified
    lazy = await verified(Deployment(write=lambda it: f"{prompt_of(it)}\nleaves fall\nso softly\nagain"), checkout)
    assert broken(lazy) == {"minute", "nonce"}


async def test_a_failed_task_is_no_poem(checkout: Path) -> None:
    """A task that ends with an error breaks the rules, and the finding says how it ended."""
    haiku = await verified(Deployment(fails=True), checkout)
    assert "answered" in broken(haiku)
    assert reason(haiku, "answered") == "WORKER_RESET: the engine was lost"


async def test_silence_is_given_up_and_canceled(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that never ends is left after the limit, its task is canceled, and it was late."""
    monkeypatch.setattr(asking, "_GIVEN_UP_AFTER_S", 0.1)
    deployment = Deployment(silent=True)
    haiku = await verified(deployment, checkout, limit_s=0.2)
    assert {"answered", "in_time"} <= broken(haiku)
    assert reason(haiku, "answered") == "no end came within 0.3 s"
    assert deployment.canceled == 1


async def test_a_late_answer_is_none(checkout: Path) -> None:
    """One moment over the limit is late, the limit itself is not."""
    evidence = (await verified(Deployment(), checkout)).evidence
    for wall_s, late in ((20.0, False), (20.01, True)):
        [finding] = [one for one in judge(replace(evidence, wall_s=wall_s)) if one.rule == "in_time"]
        assert finding.passed is not late


@pytest.mark.parametrize(
    "change",
    [
        lambda it: replace(it, end=None),
        lambda it: replace(it, started=None),
        lambda it: replace(it, text=it.text + "."),
    ],
)
async def test_a_receipt_for_another_text_vouches_for_nothing(
    change: Callable[[Evidence], Evidence], checkout: Path
) -> None:
    """The judge compares digest and text itself, whatever the client did, and wants both ends of a stream."""
    findings = judge(change((await verified(Deployment(), checkout)).evidence))
    assert {finding.rule for finding in findings if finding.passed is False} >= {"fresh"}


async def test_a_flip_of_the_minute_is_asked_again_once(checkout: Path) -> None:
    """When the minute changed while the model wrote, a second poem is asked for, with its own minute and nonce."""
    deployment = Deployment()
    minutes = iter([41, 42, 42, 42])
    haiku = await verified(deployment, checkout, lambda: next(minutes))
    assert haiku.verified
    assert haiku.times_asked == 2
    [first, second] = [wished(request) for request in deployment.requests]
    assert (first[0], second[0]) == ("forty-one", "forty-two")
    assert first[1] != second[1] == haiku.evidence.nonce
    assert deployment.requests[0]["task_id"] != deployment.requests[1]["task_id"]


async def test_a_second_flip_is_the_end(checkout: Path) -> None:
    """When the minute flips again there is no third try."""
    deployment = Deployment()
    minutes = iter([41, 42, 42, 43])
    haiku = await verified(deployment, checkout, lambda: next(minutes))
    assert broken(haiku) == {"one_minute"}
    assert reason(haiku, "one_minute") == "it was forty-two, then forty-three"
    assert len(deployment.requests) == 2


async def test_a_counter_that_moves_a_moment_later_counts(checkout: Path) -> None:
    """The counter is read again for a moment, because it may move after the reader saw the end."""
    deployment = Deployment(counts=0)
    scrapes: list[int] = []

    def slow(asked: dict[str, Any]) -> str:
        scrapes.append(deployment.counter)
        return honest(asked)

    deployment.write = slow
    metrics = deployment._metrics

    def later() -> Any:
        if scrapes:
            scrapes.append(deployment.counter)
            deployment.counter += 20 if len(scrapes) == 4 else 0
        return metrics()

    deployment._metrics = later  # type: ignore[method-assign]
    assert (await verified(deployment, checkout)).verified
    assert len(scrapes) == 4


async def test_a_fixture_is_found(checkout: Path) -> None:
    """A file that looks like a prepared haiku trips the search wherever it stands, tracked or not."""
    for name in ("tests/fixtures/haiku.txt", "fixtures/Haiku_42/poem", "a/b/fixtures/haiku-answers.json"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text("an old pond\n")
        haiku = await verified(Deployment(), checkout)
        assert broken(haiku) == {"nothing_prepared"}
        assert reason(haiku, "nothing_prepared") == f"{name} is a prepared answer"
        (checkout / name).unlink()
    assert (await verified(Deployment(), checkout)).verified


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize(
    ("line", "trips"),
    [
        ("Forty\u2013Two and {nonce}", True),
        ("poem = '{NONCE} at forty two'", True),
        ("forty-three and {nonce}", False),
        ("forty-two\n{nonce}", False),
    ],
)
async def test_a_prepared_line_is_found(line: str, trips: bool, tracked: bool, checkout: Path) -> None:
    """A line with the minute's words and the nonce trips the search in any case and hyphenation; one of them alone does not."""

    def plant(asked: dict[str, Any]) -> str:
        nonce = wished(asked)[1]
        (checkout / "answers.py").write_text("# poems\n" + line.format(nonce=nonce, NONCE=nonce.upper()) + "\n")
        if tracked:
            subprocess.run(["git", "add", "answers.py"], cwd=checkout, check=True)
        return honest(asked)

    haiku = await verified(Deployment(write=plant), checkout)
    assert broken(haiku) == ({"nothing_prepared"} if trips else set())


async def test_outside_of_a_checkout_nothing_is_searched_and_that_is_said(tmp_path: Path) -> None:
    """Where there is no repository the rule was not looked at, which is told as such."""
    haiku = await verified(Deployment(), tmp_path)
    [finding] = [one for one in haiku.findings if one.rule == "nothing_prepared"]
    assert (finding.passed, finding.reason[:20]) == (None, "not inside a checkou")


async def test_metrics_that_may_not_be_read_do_not_pass_silently(checkout: Path) -> None:
    """Without the scope the check stops; only the explicit wish leaves the counter out, and the finding says so."""
    with pytest.raises(Forbidden):
        await verified(Deployment(metrics_status=403), checkout)
    haiku = await verified(Deployment(metrics_status=403), checkout, reads_control=False)
    [finding] = [one for one in haiku.findings if one.passed is None]
    assert (finding.rule, finding.reason) == ("counted", "not looked at, as you asked")


def test_only_the_series_of_who_served_are_counted() -> None:
    """Series of other pools, other names and comments are left out, and labels are read with their escapes."""
    text = (
        '# HELP tokens_out_total x\ntokens_out_total{pool_id="a",replica_id="a-0"} 5.0\n'
        'tokens_out_total{pool_id="a",replica_id="a-1"} 6.0 1764000000000\ntokens_out_total{pool_id="b"} 100\n'
        'tokens_out_total_created{pool_id="a"} 1e9\ntokens_out_total{pool_id="q\\"\\\\n"} 2\n'
    )
    assert tokens_out(text, {"pool_id": "a"}) == 11
    assert tokens_out(text, {"pool_id": "a", "replica_id": "a-1"}) == 6
    assert tokens_out(text, {"pool_id": 'q"\\n'}) == 2
    assert tokens_out(text, {}) == 113
