"""What reaches the terminal: exact bytes into pipes, harmless characters onto screens."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TextIO

# C0 without tab and line feed, DEL, and C1: whoever writes these steers the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CLEAR_LINE = "\r\x1b[2K"


def neutralise(text: str) -> str:
    r"""Make control characters visible instead of effective.

    Req: ORCH-4225

    >>> neutralise("a\x1b[31mb\r\x9b")
    'a␛[31mb␍\\x9b'
    """
    return _CONTROL.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"\\x{number:02x}"


class Output:
    """Standard output for results, standard error for everything else.

    What a server or a model wrote is neutralised where it meets a terminal, and left alone elsewhere.

    Req: ORCH-4223
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._quiet = quiet
        self.out_is_tty = self._out.isatty()
        self.err_is_tty = self._err.isatty()
        self._status = ""
        self._at_line_start = True

    def text(self, text: str) -> None:
        """Write a piece of model output at once."""
        if not text:
            return
        self.clear_status()
        self._out.write(neutralise(text) if self.out_is_tty else text)
        self._out.flush()
        self._at_line_start = text.endswith("\n")

    def end_text(self) -> None:
        """End the line on a terminal; a pipe gets exactly the model's bytes."""
        if self.out_is_tty and not self._at_line_start:
            self.line("")

    def line(self, line: str) -> None:
        """Write one line of result."""
        self.text(f"{line}\n")

    def record(self, value: object) -> None:
        """Write one value as a line of JSON."""
        import msgspec

        self.text(msgspec.json.encode(value).decode() + "\n")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write aligned columns, the header only onto terminals."""
        cells = [[neutralise(str(cell)).replace("\n", "␊") for cell in row] for row in rows]
        shown = [list(header), *cells] if self.out_is_tty else cells
        widths = [max((len(row[column]) for row in shown), default=0) for column in range(len(header))]
        for row in shown:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def note(self, note: str) -> None:
        """Tell a person something; `--quiet` leaves it out."""
        if not self._quiet:
            self.problem(note)

    def problem(self, problem: str) -> None:
        """Tell a person what went wrong, also with `--quiet`."""
        self.clear_status()
        if self.out_is_tty and not self._at_line_start:
            self._out.write("\n")
            self._out.flush()
            self._at_line_start = True
        self._err.write((neutralise(problem) if self.err_is_tty else problem) + "\n")
        self._err.flush()

    def status(self, status: str) -> None:
        """Show what is going on: one line that is rewritten on a terminal, else a line for each change."""
        if self._quiet or status == self._status:
            return
        self._status = status
        self._err.write(f"{_CLEAR_LINE}{neutralise(status)}" if self.err_is_tty else f"{status}\n")
        self._err.flush()

    def clear_status(self) -> None:
        """Remove the status line from the terminal."""
        if self._status and self.err_is_tty:
            self._err.write(_CLEAR_LINE)
            self._err.flush()
        self._status = ""
