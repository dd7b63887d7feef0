"""What a pool may be, which depends on its engine."""

import pytest

from tests.unit.config.test_problems import problems_of


@pytest.mark.req("ORCH-4059")
@pytest.mark.parametrize("engine", ["tgi", "triton"])
def test_some_engines_serve_completions_only(engine: str) -> None:
    """A pool of such an engine cannot be made for another workload."""
    pool = f"{{id: a, engine: {engine}, model: 'repo:a/b', workloads: [rerank], launch: {{mode: external, urls: ['http://h:1']}}}}"
    (problem,) = problems_of(f"pools:\n  - {pool}\n")
    assert (problem.path, problem.message) == ("pools[0].workloads", f"{engine} serves completions only")


@pytest.mark.req("ORCH-4219")
@pytest.mark.parametrize("engine", ["vllm", "tgi", "triton"])
def test_an_engine_that_is_not_launched_here_has_to_be_external(engine: str) -> None:
    """The way out is named."""
    (problem,) = problems_of(f"pools: [{{id: a, engine: {engine}, model: 'bundled:m', allow_cpu: true}}]")
    assert problem.path == "pools[0].launch.mode"
    assert "mode: external" in problem.fix
