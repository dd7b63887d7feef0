"""`orchestratord` with a bug in it: whoever submits a task meets an exception.

INTERNAL is by definition a fault of ours, so nothing that a client, an operator or an engine does may lead to it; the
only honest way to see it is to plant one. Everything else in this process is the real daemon.
"""

import sys

from orchqueue.daemon.main import main
from orchqueue.runtime.gate import Gate


async def _fail(*_: object) -> object:
    raise RuntimeError("planted")


if __name__ == "__main__":
    Gate.submit = _fail  # type: ignore[assignment, method-assign]
    sys.exit(main())
