"""Play a day of bursty traffic against every policy in virtual time: `make bench-scheduling`.

While tuning a policy: `python -m benchmarks.scheduling --policy fair --part day --hours 6`; `--seed 7` is another day.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import RESULTS, Report
from benchmarks.scheduling import tables
from benchmarks.scheduling.player import POLICIES, Policy, play
from benchmarks.scheduling.summary import Summary, summarize
from benchmarks.scheduling.trace import ADVERSARIES, Trace, bursty_day, with_adversary

SEED = 1
DAY_HOURS, SHORT_HOURS, QUICK_HOURS = 24.0, 2.0, 0.5


def play_duels(short: Trace, policies: Sequence[Policy]) -> list[Summary]:
    """Play the short trace alone and with each adversary, against each policy."""
    traces = [short, *(with_adversary(short, adversary) for adversary in ADVERSARIES)]
    return [_timed(trace, policy) for trace in traces for policy in policies]


def _timed(trace: Trace, policy: Policy) -> Summary:
    begun = time.monotonic()
    summary = summarize(play(trace, policy))
    print(f"  {policy}, {trace.name}: {summary.tasks} tasks in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return summary


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half an hour of traffic; the figures mean little")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="only this one; may be repeated")
    parser.add_argument("--part", choices=("day", "adversaries"), help="only this part")
    parser.add_argument("--hours", type=float, help=f"length of the day (default {DAY_HOURS:g}, quick {QUICK_HOURS:g})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another day (default {SEED})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--document", type=Path, help="write the tables between the markers of this file too")
    wish = parser.parse_args(argv)
    hours = wish.hours or (QUICK_HOURS if wish.quick else DAY_HOURS)
    day = bursty_day(wish.seed, round(hours * 3600))
    short = bursty_day(wish.seed, round(min(hours, SHORT_HOURS) * 3600))
    policies: Sequence[Policy] = wish.policy or POLICIES
    days = [_timed(day, policy) for policy in policies] if wish.part != "adversaries" else []
    duels = play_duels(short, policies) if wish.part != "day" else []
    wish.out.mkdir(parents=True, exist_ok=True)
    whole = {"day": msgspec.to_builtins(days), "adversaries": msgspec.to_builtins(duels)}
    (wish.out / "scheduling.json").write_text(json.dumps(whole) + "\n")
    for name, text in all_tables(days, duels, wish.out).items():
        print(f"\n{name}\n{text}")
        if wish.document is not None:
            tables.put_between(wish.document, name, text)
    return 0


def all_tables(days: Sequence[Summary], duels: Sequence[Summary], results: Path) -> dict[str, str]:
    """Write every table that there are figures for; those of other benchmarks from the reports that they left."""
    found: dict[str, str] = {}
    if days:
        found["policies"] = tables.policies_table(days)
        found["fairness"] = tables.fairness_table(days)
        found["predictions"] = tables.prediction_table(days)
    if duels:
        found["adversaries"] = tables.adversaries_table(duels)
    for name, benchmark, table in (
        ("burst", "prediction", tables.burst_table),
        ("scale", "core_scale", tables.scale_table),
    ):
        report = results / f"{benchmark}.json"
        if report.exists():
            found[name] = table(msgspec.json.decode(report.read_bytes(), type=Report))
    return found


if __name__ == "__main__":
    sys.exit(main())
