"""The first moment of `orchq`: until a command listens to Ctrl-C, it ends the process without a word."""

from __future__ import annotations

import signal


def main() -> int:
    """Run the command line; while its modules are read a Ctrl-C leaves nothing behind that wants cleaning up.

    Shape: the process's exit code.
    Req: ORCH-4224
    """
    # Whoever starts us with Ctrl-C switched off, as shells do in the background, is left alone.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchqueue.cli.main import main as run

    return run()
