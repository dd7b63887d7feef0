"""Builds and drives `harness.c`, the load client and fake engine of the benchmarks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from benchmarks.machine import CLIENT_CORE, pin_to

SOURCE = Path(__file__).with_name("harness.c")
BINARY = Path(__file__).resolve().parent / "build" / "harness"
Said: TypeAlias = dict[str, float | str | bool]


class HarnessError(RuntimeError):
    """The harness cannot be built, or a measurement with it went wrong."""


def build() -> Path:
    """Compile the harness unless it is up to date.

    Errors: HarnessError without a C compiler.
    """
    return compiled(SOURCE, BINARY, "-O2", "-Wall")


def compiled(source: Path, binary: Path, *options: str) -> Path:
    """Compile a C file unless what was made of it is up to date.

    Errors: HarnessError without a C compiler.
    """
    if binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime:
        return binary
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise HarnessError("the benchmarks need a C compiler: install gcc (Debian, Ubuntu: apt install gcc libc6-dev)")
    binary.parent.mkdir(exist_ok=True)
    made = subprocess.run([compiler, *options, "-o", binary, source], capture_output=True, text=True, check=False)
    if made.returncode:
        raise HarnessError(f"{source.name} does not compile:\n{made.stderr}")
    return binary


class Harness:
    """One running harness; `engine_port` is where its engine listens."""

    def __init__(self, folder: Path, slots: int = 256, ctx: int = 1 << 20) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [build(), str(slots), str(ctx)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pin_to(CLIENT_CORE),  # noqa: PLW1509 - it makes one system call
        )
        self.engine_port = int(self._line()["engine_port"])

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def engine_url(self) -> str:
        """Give the engine's base URL."""
        return f"http://127.0.0.1:{self.engine_port}"

    def _line(self) -> Said:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HarnessError(f"the harness ended with status {self._process.wait()}")
        said: Said = json.loads(line)
        return said

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def _ask(self, command: str, on_mark: Callable[[Said], None] | None = None) -> Said:
        self._tell(command)
        while True:
            said = self._line()
            if "done" in said:
                if said.get("errors"):
                    raise HarnessError(f"{said['errors']} of the requests went wrong; the first: {said['problem']}")
                return said
            if on_mark is not None:
                on_mark(said)
            self._tell("go")

    def template(self, name: str, path: str, body: dict[str, object], accept: str = "*/*") -> Path:
        """Write a request; its prompt must hold `@00000000`, which becomes the request's number."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        file = self._folder / f"{name}.http"
        file.write_bytes(head.encode() + content)
        return file

    def load(
        self,
        port: int,
        template: Path,
        concurrency: int,
        tokens: int,
        total: int,
        pace_us: int = 0,
        on_mark: Callable[[Said], None] | None = None,
    ) -> Said:
        """Stream `total` requests of `tokens` tokens; marks come after a tenth and nine tenths of all tokens.

        In a closed loop nothing is sent while `on_mark` looks, however late it comes to a mark.
        """
        return self._ask(f"load {port} {template} {concurrency} {tokens} {total} {pace_us}", on_mark)

    def open(self, port: int, template: Path, count: int) -> Said:
        """Open streams with one token each and leave them."""
        return self._ask(f"open {port} {template} {count}")

    def post(self, port: int, template: Path, concurrency: int, total: int) -> Said:
        """POST and read whole answers; anything but 202 is an error."""
        return self._ask(f"post {port} {template} {concurrency} {total}")

    def close_clients(self) -> None:
        """Drop every client connection and whatever the engine still decodes."""
        self._ask("close")


if __name__ == "__main__":
    try:
        print(f"harness built: {build().name}")
    except HarnessError as error:
        sys.exit(str(error))
