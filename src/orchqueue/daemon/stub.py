"""`orchestratord stub`: what to serve and where, then the stub."""

from __future__ import annotations

import sys
from pathlib import Path

from orchqueue.daemon.exit_codes import ExitCode


def stub(pact: str | None, host: str, port: int, pace_ms: int) -> int:
    """Serve a pact until told to stop; say what is wrong on standard error when that cannot begin."""
    from orchqueue.http.server import bind
    from orchqueue.stub.pact import PactError, read_pact, shipped_pact
    from orchqueue.stub.server import serve_stub

    try:
        interactions = read_pact(shipped_pact() if pact is None else Path(pact).read_bytes())
    except (PactError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"orchestratord: {pact or 'the pact'} cannot be used: {reason}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    try:
        sockets = bind(host, port)
    except OSError as error:
        advice = "; choose another with --port, or --port 0 for any" if port else ""
        print(f"orchestratord: {host}:{port} cannot be listened on: {error.strerror or error}{advice}", file=sys.stderr)
        return ExitCode.CANNOT_LISTEN

    def tell() -> None:
        bound_host, bound_port = sockets[0].getsockname()[:2]
        url = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        print(f"{len(interactions)} interactions at {url} ; the list: curl {url}/~", flush=True)

    serve_stub(interactions, sockets, pace_ms, tell)
    return ExitCode.OK
