"""`orchq-sim`: simulated engines as processes of their own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from orchqueue_sim.engine_faults import Faults
from orchqueue_sim.engine_http import SimSettings, SimulatedEngine
from orchqueue_sim.engine_llamacpp import SimulatedLlamacpp
from orchqueue_sim.engine_tgi import SimulatedTgi
from orchqueue_sim.engine_triton import SimulatedTriton
from orchqueue_sim.engine_vllm import SimulatedVllm

ENGINES: dict[str, type[SimulatedEngine]] = {
    "llamacpp": SimulatedLlamacpp,
    "vllm": SimulatedVllm,
    "tgi": SimulatedTgi,
    "triton": SimulatedTriton,
}


def build_parser(*, simulations: bool = True) -> argparse.ArgumentParser:
    """Describe the command line; without its simulations it does not load the core, and engines start faster."""
    parser = argparse.ArgumentParser(
        prog="orchq-sim", description="Simulated parts for tests. Their text means nothing."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    engine = commands.add_parser("engine", help="serve a simulated engine over HTTP")
    engine.add_argument("kind", choices=sorted(ENGINES), help="whose wire format it speaks")
    engine.add_argument("--host", default="127.0.0.1")
    engine.add_argument("--port", type=int, default=0, help="0 lets the system choose; the URL is printed")
    defaults = SimSettings()
    engine.add_argument("--slots", type=int, default=defaults.slots)
    engine.add_argument("--ctx", type=int, default=defaults.ctx)
    engine.add_argument("--tokens-per-s", type=float, default=defaults.tokens_per_s)
    engine.add_argument("--prefill-tokens-per-s", type=float, default=defaults.prefill_tokens_per_s)
    engine.add_argument("--version-name", dest="version", default="", help="what it calls its version")
    engine.add_argument("--model", default="", help="what it calls its model")
    engine.add_argument("--api-key", default="")
    engine.add_argument("--loading-ms", type=int, default=0)
    engine.add_argument("--max-requests", type=int, default=defaults.max_requests)
    engine.add_argument("--faults", default="{}", help="JSON object, as POST /sim/faults takes it")
    if simulations:
        from orchqueue_sim.campaign import add_commands
        from orchqueue_sim.nightly import add_command

        add_commands(commands)
        add_command(commands)
    return parser


async def serve_engine(args: argparse.Namespace) -> None:
    """Serve until killed."""
    settings = msgspec.convert(
        {name: getattr(args, name) for name in SimSettings.__struct_fields__}, SimSettings, strict=False
    )
    engine = ENGINES[args.kind](settings, msgspec.json.decode(args.faults, type=Faults))
    server = await engine.serve(args.host, args.port)
    host, port = server.sockets[0].getsockname()[:2]
    sys.stdout.write(f"listening on http://{host}:{port}{engine.url_suffix}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    words = sys.argv[1:] if argv is None else argv
    args = build_parser(simulations=words[:1] != ["engine"]).parse_args(words)
    try:
        if "act" in args:
            return int(args.act(args))
        asyncio.run(serve_engine(args))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
