"""The workflow for forks does what `make test` does, and its one switch moves two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
WORKFLOW: dict[str, Any] = YAML(typ="safe").load((ROOT / ".github/workflows/ci.yml").read_text())
TEMPLATE = (ROOT / ".github/pull_request_template.md").read_text()


@pytest.mark.req("ORCH-4047")
@pytest.mark.parametrize(
    ("name", "gpu"), [("test", "${{ vars.GPU_RUNNER == '' && 'here' || 'elsewhere' }}"), ("gpu", "only")]
)
def test_each_part_runs_the_pipeline(name: str, gpu: str) -> None:
    """Each job runs `make test` with its share of the stages, and nothing in it may fail unseen."""
    job = WORKFLOW["jobs"][name]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make setup", "make test GPU=${{ env.GPU }}"]
    assert job["env"]["GPU"] == gpu
    assert "continue-on-error" not in str(WORKFLOW)


@pytest.mark.req("ORCH-4047", "ORCH-4243")
def test_gpu_part_exists_only_with_its_runner() -> None:
    """Without the variable there is no second job; with it the job runs on the runner that it names."""
    assert WORKFLOW["jobs"]["gpu"]["if"] == "vars.GPU_RUNNER != ''"
    assert WORKFLOW["jobs"]["gpu"]["runs-on"] == "${{ vars.GPU_RUNNER }}"


@pytest.mark.req("ORCH-4047", "ORCH-4289")
def test_downloads_are_cached_by_digest() -> None:
    """The cache's key is made of the locks, which hold the digests of dependencies and weights."""
    [cache] = [step for step in WORKFLOW["jobs"]["test"]["steps"] if "cache" in step.get("uses", "")]
    assert "hashFiles('locks/*.lock')" in cache["with"]["key"]
    assert "--hash=sha256:" in (ROOT / "locks/weights.lock").read_text()


@pytest.mark.req("ORCH-4047", "ORCH-4290")
@pytest.mark.parametrize(
    "part", ["Contract", "Pact", "Provider", "Properties", "Determinism", "End to end", "Observability", "Compliance"]
)
def test_template_asks_for_the_definition_of_done(part: str) -> None:
    """A pull request ticks each part of the definition of done."""
    assert f"- [ ] **{part}**" in TEMPLATE
