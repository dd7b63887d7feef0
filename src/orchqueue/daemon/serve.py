"""`orchestratord serve`: what to serve and where, then the composition."""

from __future__ import annotations

import sys

from orchqueue.adapters.keys import KeysError
from orchqueue.adapters.system import default_data_dir
from orchqueue.config.loader import embedded_default, load, with_overrides
from orchqueue.config.problems import ConfigError, Problem
from orchqueue.config.types import Config
from orchqueue.daemon.exit_codes import ExitCode
from orchqueue.ports.errors import CannotListen, PortError


def serve(path: str | None, host: str | None, port: int | None, data_dir: str | None) -> int:
    """Serve until told to stop; say what is wrong on standard error when that cannot begin."""

    def read_config() -> Config:
        """Read the file anew, with what the command line says over it; a reload uses this too."""
        config = embedded_default() if path is None else load(path, lambda problem: _tell(problem, path))
        return config if host is None and port is None else with_overrides(config, host=host, port=port)

    try:
        config = read_config()
        from orchqueue.composition import run

        return run(config, read_config, data_dir or default_data_dir())
    except ConfigError as error:
        return _refuse(error.render(), ExitCode.BAD_INPUT)
    except CannotListen as error:
        return _refuse(str(error), ExitCode.CANNOT_LISTEN)
    except KeysError as error:
        return _refuse(str(error), ExitCode.KEYS_UNUSABLE)
    except PortError as error:
        return _refuse(str(error), ExitCode.DATA_UNUSABLE)


def _tell(problem: Problem, path: str) -> None:
    print(f"{problem.render(path)} (let pass by compat: true)", file=sys.stderr)


def _refuse(message: str, status: ExitCode) -> int:
    print(f"orchestratord: {message}", file=sys.stderr)
    return status
