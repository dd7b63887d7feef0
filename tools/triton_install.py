"""Fill `.venv-triton` with the real tritonserver: `python -m tools.triton_install`, or `make engines-triton`.

1. The environment gets what `locks/triton.lock` names, without what those packages declare: tritonserver and its Python backend
   need numpy only.
2. The stub that runs Python models is put where the backend looks for it: the one for this Python's version.
3. tritonserver is asked for its usage, so that a missing system library shows here and not in a test.
4. A stamp with the lock's digest is written last; where it is right nothing is done.

Req: ORCH-4460
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-triton"
LOCK = ROOT / "locks" / "triton.lock"
STAMP = VENV / ".stamp"
PACKAGES = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
SERVER = PACKAGES / "pytriton" / "tritonserver"
STUB = "triton_python_backend_stub"


def expected_stamp() -> str:
    """Say what a finished installation was made from."""
    return f"{sys.version_info.major}.{sys.version_info.minor} {sha256(LOCK.read_bytes()).hexdigest()}\n"


def installed() -> bool:
    """Tell whether the environment is what the lock asks for."""
    return STAMP.is_file() and STAMP.read_text() == expected_stamp()


def environment() -> dict[str, str]:
    """Give the variables with which tritonserver finds its libraries and its models their packages."""
    libraries = [str(PACKAGES / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
    return {
        "LD_LIBRARY_PATH": ":".join(path for path in libraries if path),
        "PYTHONPATH": str(PACKAGES),
        "PATH": f"{VENV / 'bin'}:/usr/local/bin:/usr/bin:/bin",
    }


def install() -> None:
    """Carry out the steps.

    Errors: CalledProcessError, OSError; RuntimeError that says what is missing.
    """
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    if not python.exists():
        print(f"engines-triton: making {VENV.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    print("engines-triton: 1/3 installing tritonserver from locks/triton.lock (75 MB)", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"engines-triton: 2/3 choosing the backend's stub for Python {version}", flush=True)
    stub = SERVER / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        raise RuntimeError(f"this tritonserver has no Python backend for Python {version}; use 3.11 or 3.12")
    shutil.copy2(stub, SERVER / "backends" / "python" / STUB)
    print("engines-triton: 3/3 asking tritonserver for its usage", flush=True)
    for program, arguments in ((SERVER / "bin" / "tritonserver", ["--help"]), (Path("/usr/bin/ldd"), [str(stub)])):
        done = subprocess.run(
            [str(program), *arguments], env=environment(), capture_output=True, text=True, check=False
        )
        missing = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "not found" in line]
        if missing:
            raise RuntimeError(f"{program.name}: {'; '.join(missing)}; its Python must have a shared library")
    STAMP.write_text(expected_stamp())
    print("engines-triton: done; next: make ci STAGE=triton", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Install the real tritonserver for the tests that want one.")
    parser.add_argument("--check", action="store_true", help="install nothing; fail when it is missing or stale")
    options = parser.parse_args(argv)
    if installed():
        if not options.check:
            print("engines-triton: nothing to do")
        return 0
    if options.check:
        print(f"{VENV.name} is missing or stale: run `make engines-triton`", file=sys.stderr)
        return 1
    try:
        install()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"engines-triton: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
