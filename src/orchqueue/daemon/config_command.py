"""`orchestratord config`: the configuration in effect, without its secrets."""

from __future__ import annotations

import sys

import msgspec

from orchqueue.config.loader import embedded_default, load
from orchqueue.config.masking import masked, render_yaml
from orchqueue.config.problems import ConfigError
from orchqueue.daemon.exit_codes import ExitCode


def show_config(path: str | None, *, as_json: bool) -> int:
    """Print it as YAML or JSON.

    Req: ORCH-3031
    """
    try:
        config = embedded_default() if path is None else load(path)
    except ConfigError as error:
        print(error.render(), file=sys.stderr)
        return ExitCode.BAD_INPUT
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(masked(config))).decode())
    else:
        print(render_yaml(config), end="")
    return ExitCode.OK
