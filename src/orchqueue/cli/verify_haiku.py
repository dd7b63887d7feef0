"""`orchq verify haiku`: the haiku test against any deployment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context
from orchqueue.cli.exit_codes import ExitCode, UsageError

if TYPE_CHECKING:
    from orchqueue.cli.output import Output
    from orchqueue.client import AsyncClient
    from orchqueue.verify.haiku import Haiku, Plan, Rate

MODES = ("examples", "plain", "choice", "schema", "grammar")
LIMIT_S = 30.0
RUNS_AT_MOST = 10_000
_BAR_CELLS = 20

SUMMARY = "let the model write a poem that nobody could have prepared, and check it against every rule"
DETAILS = """examples:
  orchq verify haiku                              one poem, with the minute of this moment in it
  orchq verify haiku --mode plain                 ask in one sentence; for models that do as they are told
  orchq verify haiku --pool gpu --mode plain      from this pool
  orchq verify haiku --runs 100 --at-least 99     how often it succeeds, over all minutes of the hour
  orchq verify haiku --json | jq 'select(.event == "haiku").findings'
  REQUIRE_REAL_LLAMA=1 orchq verify haiku         ask nothing where an engine is simulated

The poem must hold the minute of the hour in Amsterdam, in English words, and 8 random letters, in at least 3 lines, within 30 s.
tokens_out_total must rise by its tokens, and engine version and model digest be the same wherever they are told. When the minute
flips meanwhile a second poem is asked for. What a pass shows depends on the mode:
  examples   the model wrote both strings by itself, after six poems to take as a pattern
  plain      the model wrote both strings by itself, asked in one sentence
  choice     the model chose both strings among 60 minutes and 32 nonces; a grammar spelled them (llama.cpp only)
  schema     the engine kept to a JSON schema that demands both strings; it says nothing of the model
  grammar    the engine kept to a grammar that demands both strings (llama.cpp only); it says nothing of the model

Counter and versions are read from the control plane, which needs a key with that scope. --no-metrics leaves them out and says so.

exit status: 0 every poem, or enough of them, kept every rule, 7 not so, 2 bad usage, 3 refused for now, 5 the key may not"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add who is asked, how, and how often."""
    parser.add_argument("--pool", metavar="ID", help="ask this pool only (whichever the server chooses)")
    parser.add_argument("--model-ref", metavar="REF", help="ask this model; needed only where several would fit")
    parser.add_argument("--mode", choices=MODES, default="examples", help="how to ask (examples)")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="ask N times, over all minutes, and count (1)")
    parser.add_argument(
        "--at-least", type=float, default=100.0, metavar="PERCENT", help="status 0 when so many of N pass (100)"
    )
    parser.add_argument("--timeout", type=float, default=LIMIT_S, metavar="S", help="seconds for each poem, 30 at most")
    parser.add_argument("--no-metrics", action="store_true", help="leave out what only the control plane tells")


async def execute(context: Context, args: Namespace) -> int:
    """Ask, show each poem or the rate, and say what it shows.

    Req: ORCH-4232, ORCH-4410
    """
    import os

    from orchqueue.client.errors import Forbidden

    plan = _plan(args)
    output = context.output
    haikus: list[Haiku] = []
    rate = None
    async with context.client() as client:
        try:
            if os.environ.get("REQUIRE_REAL_LLAMA") == "1" and not await _is_real(client, plan, output):
                return ExitCode.NOT_VERIFIED
            await _run(context, client, plan, args.runs, haikus)
        except Forbidden:
            if plan.reads_control:
                output.note("counter and versions are read from the control plane; --no-metrics leaves them out")
            raise
        finally:
            output.clear_status()
            rate = _tell_rate(context, haikus, plan, args.runs) if haikus else None
    return ExitCode.OK if rate is not None and rate.percent >= args.at_least else ExitCode.NOT_VERIFIED


def _plan(args: Namespace) -> Plan:
    from orchqueue.verify.haiku import Plan
    from orchqueue.verify.haiku_modes import MODES as BY_NAME

    if not 0 < args.timeout <= LIMIT_S:
        raise UsageError(f"--timeout takes more than 0 and at most {LIMIT_S:g} seconds: that is the rule")
    if not 1 <= args.runs <= RUNS_AT_MOST:
        raise UsageError(f"--runs takes 1 to {RUNS_AT_MOST}")
    if not 0 < args.at_least <= 100:
        raise UsageError("--at-least takes more than 0 and at most 100 percent")
    return Plan(
        BY_NAME[args.mode],
        pool_id=args.pool,
        model_ref=args.model_ref,
        limit_s=args.timeout,
        reads_control=not args.no_metrics,
    )


async def _is_real(client: AsyncClient, plan: Plan, output: Output) -> bool:
    from orchqueue.verify.haiku import simulated_pools

    if not plan.reads_control:
        raise UsageError("REQUIRE_REAL_LLAMA=1 asks the control plane what the engines are; --no-metrics forbids that")
    simulated = await simulated_pools(client, plan.pool_id)
    if simulated:
        output.problem(f"orchq: simulated engines write no poems: {', '.join(simulated)} (REQUIRE_REAL_LLAMA=1)")
    return not simulated


async def _run(context: Context, client: AsyncClient, plan: Plan, runs: int, haikus: list[Haiku]) -> None:
    from orchqueue.verify.haiku import clocks, write_haiku

    for clock in clocks(runs):
        if context.output.err_is_tty:
            context.output.status(_bar(len(haikus), runs, sum(haiku.verified for haiku in haikus)))
        haiku = await write_haiku(client, plan, clock)
        haikus.append(haiku)
        if context.as_json:
            context.output.record(_record(haiku, plan))
        elif runs == 1:
            _show(haiku, context.output)
        elif not haiku.verified:
            _show_broken(haiku, len(haikus), context.output)


def _bar(done: int, runs: int, passed: int) -> str:
    """Draw how far it is.

    >>> _bar(5, 10, 4)
    '[##########..........] poem 6 of 10, 4 passed'
    """
    full = _BAR_CELLS * done // runs
    return f"[{'#' * full}{'.' * (_BAR_CELLS - full)}] poem {done + 1} of {runs}, {passed} passed"


def _show(haiku: Haiku, output: Output) -> None:
    marks = {True: "ok", False: "BROKEN", None: "-"}
    if haiku.evidence.poem:
        output.text("\n" + "".join(f"    {line}\n" for line in haiku.evidence.poem.strip().splitlines()) + "\n")
    for finding in haiku.findings:
        output.line(f"{marks[finding.passed]:7} {finding.rule:16}  {finding.reason}")
    if haiku.times_asked > 1:
        output.line("the minute flipped while the first was written, so this is the second")


def _show_broken(haiku: Haiku, number: int, output: Output) -> None:
    reasons = "; ".join(f"{finding.rule}: {finding.reason}" for finding in haiku.findings if finding.passed is False)
    output.line(f"poem {number} broke {reasons}")


def _tell_rate(context: Context, haikus: list[Haiku], plan: Plan, runs: int) -> Rate:
    from orchqueue.verify.haiku import rate_of

    rate = rate_of(haikus)
    if context.as_json:
        context.output.record(
            {
                "event": "rate",
                "mode": plan.mode.name,
                "runs": rate.runs,
                "passed": rate.passed,
                "percent": round(rate.percent, 2),
                "broken": rate.broken,
                "median_s": round(rate.median_s, 3),
                "longest_s": round(rate.longest_s, 3),
                "shows": plan.mode.shows,
                "does_not_show": plan.mode.leaves,
            }
        )
        return rate
    output = context.output
    if runs > 1:
        output.line(f"passed     {rate.passed} of {rate.runs} ({rate.percent:.1f} %), mode {plan.mode.name}")
        output.line(f"took       {rate.median_s:.1f} s in the middle, {rate.longest_s:.1f} s at most")
    if rate.passed:
        output.line(f"shows      {plan.mode.shows}")
        output.line(f"not shown  {plan.mode.leaves}")
    unlooked = [finding.rule for finding in haikus[-1].findings if finding.passed is None]
    if unlooked:
        output.line(f"not looked at: {', '.join(unlooked)}")
    if rate.passed < rate.runs and plan.mode.name in ("plain", "examples"):
        output.note(
            "a small model may not manage this; --mode schema or grammar lets the engine hold it to the strings"
        )
    return rate


def _record(haiku: Haiku, plan: Plan) -> dict[str, object]:
    evidence = haiku.evidence
    started = evidence.started
    return {
        "event": "haiku",
        "verified": haiku.verified,
        "mode": plan.mode.name,
        "minute": evidence.minute,
        "nonce": evidence.nonce,
        "poem": evidence.poem,
        "wall_s": round(evidence.wall_s, 3),
        "times_asked": haiku.times_asked,
        "tokens_out": evidence.end.tokens_out if evidence.end else 0,
        "pool_id": started.pool_id if started else None,
        "replica_id": started.replica_id if started else None,
        "engine_version": started.engine_version if started else None,
        "model_digest": started.model_digest if started else None,
        "findings": [
            {"rule": finding.rule, "passed": finding.passed, "reason": finding.reason} for finding in haiku.findings
        ],
    }
