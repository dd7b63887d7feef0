"""Each import contract of pyproject.toml is seen broken by a planted import."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = [str(contract["name"]) for contract in CONFIG["contracts"]]
PARTS = sorted(set(re.findall(r"orchqueue\.(\w+)", str(CONFIG))))

PLANTS = [
    ("layers", "core", "import orchqueue.ports"),
    ("layers", "ports", "import orchqueue.runtime"),
    ("layers", "runtime", "import orchqueue.adapters"),
    ("layers", "adapters", "from orchqueue import runtime"),
    ("layers", "http", "import orchqueue.composition"),
    ("layers", "composition", "import orchqueue.daemon"),
    ("http never sees adapters", "http", "import orchqueue.adapters"),
    ("core is pure", "core", "import time"),
    ("core is pure", "core", "import asyncio"),
    ("schema stands alone", "schema", "import orchqueue.core"),
    ("only http and client read the schema", "runtime", "import orchqueue.schema"),
    ("only http and client read the schema", "cli", "import orchqueue.schema"),
    ("config knows only core", "config", "import orchqueue.ports"),
    ("only composition and daemon read config", "http", "import orchqueue.config"),
    ("only daemon composes", "http", "import orchqueue.composition"),
    ("layers", "stub", "import orchqueue.composition"),
    ("only daemon serves the stub", "http", "import orchqueue.stub"),
    ("client knows only the schema", "client", "import orchqueue.core"),
    ("cli knows only the client", "cli", "import orchqueue.http"),
    ("verify knows only the client", "verify", "import orchqueue.core"),
    ("verify knows only the client", "verify", "import orchqueue.cli"),
    ("only http and client read the schema", "verify", "import orchqueue.schema"),
    ("only cli verifies", "client", "import orchqueue.verify"),
    ("nobody imports the simulator", "daemon", "import orchqueue_sim"),
]


def lint(folder: Path) -> str:
    """Run the import linter with our contracts on the packages in one folder."""
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", "pyproject.toml", "--no-cache"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True).stdout


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """Lay out every part that the contracts name, empty."""
    for package in ("orchqueue", "orchqueue_sim", *(f"orchqueue/{part}" for part in PARTS)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    return tmp_path


def test_empty_skeleton_keeps_all(skeleton: Path) -> None:
    """Without a planted import every contract is kept."""
    report = lint(skeleton)
    assert f"{len(CONTRACTS)} kept, 0 broken" in report


@pytest.mark.parametrize(("contract", "part", "line"), PLANTS)
def test_planted_import_breaks_the_contract(skeleton: Path, contract: str, part: str, line: str) -> None:
    """The contract's own name stands in the report when its rule is broken."""
    (skeleton / "orchqueue" / part / "planted.py").write_text(f"{line}\n")
    report = lint(skeleton)
    assert re.search(rf"^{re.escape(contract)} BROKEN", report, re.MULTILINE), report


def test_every_contract_has_a_plant() -> None:
    """No contract goes without having been seen broken."""
    assert {contract for contract, _, _ in PLANTS} == set(CONTRACTS)
