"""Play a day of bursty traffic against every policy in virtual time: `make bench-scheduling`.

While tuning a policy: `python -m benchmarks.scheduling --quick --policy fair`, or `--seed 7 --hours 6`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.figures import RESULTS
from benchmarks.scheduling import tables
from benchmarks.scheduling.player import POLICIES, Policy, play
from benchmarks.scheduling.summary import Summary, summarize
from benchmarks.scheduling.trace import ADVERSARIES, Trace, bursty_day, with_adversary

SEED = 1
DAY_HOURS, SHORT_HOURS, QUICK_HOURS = 24.0, 4.0, 0.5


def run_all(day: Trace, short: Trace, policies: list[Policy]) -> tuple[list[Summary], list[Summary]]:
    """Play the day, and then the short trace alone and with each adversary, against each policy."""
    days, duels = [], []
    for policy in policies:
        days.append(_timed(day, policy))
        duels.append(_timed(short, policy))
        duels.extend(_timed(with_adversary(short, adversary), policy) for adversary in ADVERSARIES)
    return days, sorted(duels, key=lambda s: ("bursty", *ADVERSARIES).index(s.trace))


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
    parser.add_argument("--hours", type=float, help=f"length of the day (default {DAY_HOURS:g}, quick {QUICK_HOURS:g})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another day (default {SEED})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--document", type=Path, help="write the tables between the markers of this file too")
    wish = parser.parse_args(argv)
    hours = wish.hours or (QUICK_HOURS if wish.quick else DAY_HOURS)
    day = bursty_day(wish.seed, round(hours * 3600))
    short = bursty_day(wish.seed, round(min(hours, SHORT_HOURS) * 3600))
    days, duels = run_all(day, short, wish.policy or list(POLICIES))
    wish.out.mkdir(parents=True, exist_ok=True)
    whole = {"day": msgspec.to_builtins(days), "adversaries": msgspec.to_builtins(duels)}
    (wish.out / "scheduling.json").write_text(json.dumps(whole) + "\n")
    for name, text in (
        ("policies", tables.policies_table(days)),
        ("fairness", tables.fairness_table(days)),
        ("adversaries", tables.adversaries_table(duels)),
        ("predictions", tables.prediction_table(days)),
    ):
        print(f"\n{name}\n{text}")
        if wish.document is not None:
            tables.put_between(wish.document, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
