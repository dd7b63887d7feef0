"""The report in words, and as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from orchqueue.verify.comparison import Divergence, Side
from orchqueue.verify.findings import Findings, Report
from orchqueue.verify.snapshot import dump

SHOWN_DIVERGENCES = 5
NO_LOGPROBS = "none: the API does not give any"
LABEL_WIDTH = 20
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,80}")


def token_diff(found: Divergence) -> str:
    """Show where two runs part: the token, what stood before it in each, and what came after.

    Req: ORCH-4287
    """
    one, other = found.one, found.other
    names = [one.replica_id, other.replica_id]
    if one.replica_id == other.replica_id:
        names[1] += " again"
    lines = [
        f"seed {found.seed}: {names[0]} and {names[1]} part at token {one.token_index}, byte {found.byte_offset}",
        _line("prompt", repr(found.prompt)),
    ]
    if one.before == other.before:
        lines.append(_line("before, in both", _pieces(one.before)))
    else:
        lines += [
            _line(f"before, on {name}", _pieces(side.before)) for name, side in zip(names, (one, other), strict=True)
        ]
    lines += [_line(name, _token(side)) for name, side in zip(names, (one, other), strict=True)]
    lines += [_line(name, _end(side)) for name, side in zip(names, (one, other), strict=True)]
    lines.append(_line("log-probabilities", NO_LOGPROBS))
    return "\n".join(lines)


def summary(report: Report) -> list[str]:
    """Say line by line what was compared and what came out, the verdict last."""
    where = ", ".join(f"{one.replica_id} ({one.runs} runs)" for one in report.replicas) or "no replica"
    lines = [*report.notes]
    if report.compared == "itself":
        lines.append(f"compared with itself, for there is no second replica: {where}")
    else:
        lines.append(f"compared: {where}")
    if report.engine:
        lines.append(
            f"engine {report.engine} {report.engine_version}, model {report.model or '?'} ({report.model_digest[:16]}…),"
            f" {report.determinism}, {report.max_tokens} tokens a stream"
        )
    if report.under:
        lines.append(f"meanwhile: {', '.join(report.under)}")
    if report.cuts_differ:
        lines.append(f"{report.cuts_differ} runs came in other pieces, with the same bytes; that is no difference")
    lines += report.failures
    if report.seeds_missing:
        lines.append(f"not compared: {_ranges(report.seeds_missing)}")
    lines.append(verdict_line(report))
    return lines


def verdict_line(report: Report) -> str:
    """Say in one line how it ended."""
    seconds = f"{report.runs} tasks in {report.took_ms / 1000:.0f} s"
    if report.verdict == "equal":
        return f"{report.seeds_equal}/{report.seeds} seeds byte-exact ({seconds})"
    if report.verdict == "different":
        return (
            f"DIFFERENT: {len(report.seeds_different)} of {report.seeds} seeds gave two texts:"
            f" {_ranges(report.seeds_different)} ({seconds})"
        )
    return f"NOT VERIFIED: {report.seeds_equal}/{report.seeds} seeds were compared, and were equal ({seconds})"


def progress_bar(findings: Findings, width: int = 28) -> str:
    """Draw how far it is.

    Req: ORCH-4231
    """
    done, wanted = findings.done_runs, findings.wanted_runs
    filled = width * done // max(1, wanted)
    counts = ", ".join(f"{name} {runs}" for name, runs in sorted(findings.by_replica().items()))
    different = len(findings.seeds_different)
    told = f"; {different} different" if different else ""
    return f"[{'#' * filled}{'.' * (width - filled)}] {done}/{wanted} runs; {counts}{told}"


def write_files(folder: Path, findings: Findings, report: Report) -> list[Path]:
    """Write the runs of each replica as one JSON Lines file, and the token diffs as text where there are any.

    Errors: OSError.
    Req: ORCH-4287, ORCH-4401
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in report.replicas:
        path = folder / f"{_file_stem(one.replica_id)}.jsonl"
        path.write_text(dump(run for run in findings.all_runs() if run.replica_id == one.replica_id), "utf-8")
        written.append(path)
    if report.divergences:
        path = folder / "divergences.txt"
        path.write_text("\n\n".join(map(token_diff, report.divergences)) + "\n", "utf-8")
        written.append(path)
    return written


def _file_stem(replica_id: str) -> str:
    if _SAFE.fullmatch(replica_id) and not replica_id.startswith("."):
        return replica_id
    return sha256(replica_id.encode()).hexdigest()[:32]


def _line(label: str, told: str) -> str:
    return f"  {label:<{LABEL_WIDTH}} {told}"


def _end(side: Side) -> str:
    return f"{side.tokens_out} tokens, ended by {side.finish_reason}, sha256 {side.digest[:16]}…"


def _pieces(pieces: Sequence[str]) -> str:
    return " ".join(map(repr, pieces)) or "nothing"


def _token(side: Side) -> str:
    if side.token is None:
        return f"ended after {side.token_index} tokens"
    after = f", then {_pieces(side.after)}" if side.after else ", then nothing"
    return f"token {side.token_index} {side.token!r}{after}"


def _ranges(seeds: Sequence[int]) -> str:
    """Name seeds briefly.

    >>> _ranges([1001, 1002, 1003, 1007])
    'seeds 1001-1003, 1007'
    """
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return "seeds " + ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
