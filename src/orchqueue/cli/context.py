"""What every command gets: the settings of the call, the terminal, and a client."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, NamedTuple

from orchqueue.cli.exit_codes import UsageError
from orchqueue.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchqueue.client import AsyncClient, ReconnectPolicy

DEFAULT_URL = "http://127.0.0.1:8080"


class Context(NamedTuple):
    """The settings that all commands share. `as_json`: results as JSON."""

    output: Output
    url: str
    api_key: str | None
    ca_file: str | None
    as_json: bool

    @classmethod
    def of(cls, args: Namespace, output: Output) -> Context:
        """Take settings from the command line, then from the environment, then the defaults.

        Errors: UsageError when the key file cannot be read.
        """
        return cls(
            output=output,
            url=getattr(args, "url", None) or os.environ.get("ORCHQ_URL") or DEFAULT_URL,
            api_key=_api_key(getattr(args, "api_key", None), getattr(args, "api_key_file", None)),
            ca_file=getattr(args, "ca_file", None) or os.environ.get("ORCHQ_CA_FILE") or None,
            as_json=bool(getattr(args, "json", False)),
        )

    def client(
        self, reconnect: ReconnectPolicy | None = None, on_break: Callable[[Exception, int], None] | None = None
    ) -> AsyncClient:
        """Make a client; the import is here because it costs more than all of `--help`."""
        from orchqueue.client import AsyncClient

        return AsyncClient(self.url, self.api_key, ca_file=self.ca_file, reconnect=reconnect, on_break=on_break)


def _api_key(given: str | None, file: str | None) -> str | None:
    if given:
        return given
    file = file or (None if os.environ.get("ORCHQ_API_KEY") else os.environ.get("ORCHQ_API_KEY_FILE"))
    if file:
        return read_text(file).strip()
    return os.environ.get("ORCHQ_API_KEY", "").strip() or None


def read_text(name: str) -> str:
    """Read a file of UTF-8 text; `-` is standard input.

    Errors: UsageError when it cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read() if name == "-" else _read_bytes(name)
        return raw.decode()
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _read_bytes(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()
