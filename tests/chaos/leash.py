"""Run a module or a file as `python` does, and die with whoever started it: a storm that is killed leaves nobody behind.

`python leash.py -m MODULE ARGUMENTS…` or `python leash.py FILE ARGUMENTS…`.
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
LEASHED = (sys.executable, str(Path(__file__)))

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    del sys.argv[0]
    # Where this file lies is no place to import from.
    del sys.path[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
