"""What is told of a run: a line that repeats it, figures, and where the evidence lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.figures import machine
from tests.chaos.evidence import Account, Connection
from tests.chaos.monkey import KILL_OF_DAEMON, KILL_OF_REPLICA
from tests.chaos.storm import Verdict, Wish

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
HEADING = "## Killed four hundred times"
KEEP_ACCOUNTS = 40


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The run in numbers. Units: seconds, bytes, counts."""

    seed: int
    engine: str
    storm_s: float
    cut_short: bool
    tasks_accepted: int
    tasks_refused: int
    tasks_finished: int
    tasks_lost: int
    tasks_duplicated: int
    streams_compared: int
    streams_equal: int
    bytes_heard: int
    connections: int
    connections_reset: int
    kills_daemon: int
    kills_replicas: int
    lives: int
    strokes: dict[str, int]
    ends: dict[str, int]
    longest_reader_pause_s: float
    violations: dict[str, int]


def figures_of(verdict: Verdict) -> Figures:
    """Count what the verdict says."""
    book = verdict.book
    accepted = book.accepted()
    finals = {account.task_id: account.finals[-1] for account in accepted if account.finals}
    ends = Counter(final.error_code or final.finish_reason if final.ended else final.state for final in finals.values())
    compared = [
        account
        for account in accepted
        if account.strict
        and account.task_id in finals
        and finals[account.task_id].finish_reason != "canceled"
        and finals[account.task_id].error_code != "POOL_UNAVAILABLE"  # drained away before it could say all
    ]
    texts = [(finals[a.task_id].text, finals[a.task_id].finish_reason) == verdict.references[a.piece] for a in compared]
    rules = Counter(violation.rule for violation in verdict.violations)
    return Figures(
        seed=verdict.wish.seed,
        engine=verdict.wish.kind,
        storm_s=round(verdict.storm_s, 1),
        cut_short=verdict.cut_short,
        tasks_accepted=len(accepted),
        tasks_refused=sum(book.refused.values()),
        tasks_finished=sum(final.ended for final in finals.values()),
        tasks_lost=len(accepted) - sum(final.ended for final in finals.values()),
        tasks_duplicated=rules["count"],
        streams_compared=len(compared),
        streams_equal=sum(texts),
        bytes_heard=sum(len(h.data) for a in accepted for c in a.connections for h in c.heard),
        connections=sum(len(account.connections) for account in accepted),
        connections_reset=verdict.resets,
        kills_daemon=verdict.kills[KILL_OF_DAEMON],
        kills_replicas=verdict.kills[KILL_OF_REPLICA],
        lives=verdict.lives,
        strokes=dict(sorted(Counter(stroke.act for stroke in book.strokes).items())),
        ends=dict(sorted(ends.items())),
        longest_reader_pause_s=round(longest_pause(verdict).length_s, 2),
        violations=dict(rules),
    )


class Pause(NamedTuple):
    """A time in which a reader who had begun to read waited for the next token."""

    length_s: float
    from_s: float
    pool_id: str
    task_id: str


def longest_pause(verdict: Verdict) -> Pause:
    """Find the longest pause of all who only read."""
    longest = Pause(0.0, 0.0, "", "")
    for account in verdict.book.accepted():
        if account.role not in ("reader", "at_once") or account.mismatches:
            continue
        seen, last_s = 0, 0.0
        for connection in _until_end(account):
            for heard in connection.heard:
                position = int(heard.event_id.partition(":")[0]) if heard.name == "token" else 0
                if position > seen:
                    if seen:
                        longest = max(
                            longest, Pause(heard.at_s - last_s, last_s, account.piece.pool_id, account.task_id)
                        )
                    seen, last_s = position, heard.at_s
    return longest


def _until_end(account: Account) -> Iterator[Connection]:
    """List a reader's connections up to the one with its end: whoever asks later was not waiting."""
    for connection in account.connections:
        yield connection
        if any(heard.name in ("end", "error") for heard in connection.heard):
            return


def _tell_pause(verdict: Verdict) -> str:
    pause = longest_pause(verdict)
    strokes = [s.act for s in verdict.book.strokes if pause.from_s - 0.5 <= s.at_s <= pause.from_s + pause.length_s]
    return (
        f"the longest pause, {pause.length_s:.1f} s from {pause.from_s:.1f} s on, was in pool {pause.pool_id} "
        f"(task {pause.task_id}), while there was: {', '.join(strokes) or 'nothing'}"
    )


def command(wish: Wish) -> str:
    """Write the command that repeats a run: the same plan and the same tasks, not the same instants."""
    return (
        f"python -m tests.chaos --minutes {wish.length_s / 60:g} --seed {wish.seed} --engine {wish.kind} "
        f"--kills-daemon {wish.kills_daemon} --kills-replicas {wish.kills_replicas}"
    )


def tell(verdict: Verdict) -> str:
    """Put the verdict into words; a failure begins with what repeats it."""
    figures = figures_of(verdict)
    lines = [f"{name}: {value}" for name, value in msgspec.structs.asdict(figures).items()]
    lines.append(_tell_pause(verdict))
    if not verdict.violations:
        return "\n".join(["chaos: every promise was kept", *lines])
    told = [
        f"chaos: seed {verdict.wish.seed} broke {len(verdict.violations)} promises; repeat: {command(verdict.wish)}",
        "(real processes: the plan repeats, the instants do not)",
        f"(the evidence of this run: {verdict.place / 'evidence.json'})",
        *(violation.line() for violation in verdict.violations[:KEEP_ACCOUNTS]),
    ]
    return "\n".join([*told, *lines])


def keep_evidence(verdict: Verdict) -> None:
    """Write down the accounts that the judge complained of, and everything that the monkey did."""
    named = dict.fromkeys(violation.task_id for violation in verdict.violations)
    accounts = [verdict.book.accounts[name] for name in named if name in verdict.book.accounts][:KEEP_ACCOUNTS]
    evidence = {
        "command": command(verdict.wish),
        "violations": [violation.line() for violation in verdict.violations],
        "strokes": verdict.book.strokes,
        "accounts": accounts,
        "references": [[piece, reference] for piece, reference in verdict.references.items()],
    }
    (verdict.place / "evidence.json").write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=1))


def write_json(verdict: Verdict, path: Path) -> None:
    """Write the figures and the machine that they come from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": command(verdict.wish), "machine": machine(), "figures": figures_of(verdict)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def write_document(verdict: Verdict, path: Path) -> None:
    """Put the table into its section of the document; the rest of the file is left as it is."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(verdict)}{END}{after}")


def table(verdict: Verdict) -> str:
    """Write the figures as a table."""
    figures, about = figures_of(verdict), machine()
    ends = ", ".join(f"{count} {name}" for name, count in figures.ends.items())
    rows = [
        ("daemon killed with -9", f"{figures.kills_daemon} times"),
        ("replicas killed with -9", f"{figures.kills_replicas} times"),
        ("lives of the daemon", f"{figures.lives}"),
        ("storm", f"{figures.storm_s / 60:.1f} minutes, engine `{figures.engine}`, seed {figures.seed}"),
        ("tasks accepted", f"{figures.tasks_accepted}"),
        ("tasks finished", f"{figures.tasks_finished} ({ends})"),
        ("tasks lost", f"{figures.tasks_lost}"),
        ("tasks run twice", f"{figures.tasks_duplicated}"),
        ("strict streams equal to the undisturbed run", f"{figures.streams_equal} of {figures.streams_compared}"),
        ("connections reset", f"{figures.connections_reset} of {figures.connections}"),
        ("longest pause of a reader", f"{figures.longest_reader_pause_s} s"),
        ("broken promises", f"{sum(figures.violations.values())}"),
    ]
    told = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"| {about['date']}, {about['cores']} cores | |\n|---|---|\n{told}\n"
