"""Embeddings by a real engine that the daemon launched for them, from the POST to the next life of the daemon."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient
from orchqueue.client.errors import InvalidRequest
from orchqueue.client.types import Completion
from orchqueue.schema.data import Result, TaskRequest
from tests.daemon import metric, running

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(180)]

CONFIG = """
pools:
  - id: vectors
    engine: llamacpp
    model: bundled:smollm2-135m-instruct-q4_1
    ctx: 256
    allow_cpu: true
    workloads: [embedding]
"""
DIMENSIONS = 576
TEXTS = ["a cat on the roof", "the price of wheat in 1840"]


def vectors_of(completion: Completion) -> list[list[float]]:
    """Take the vectors out of the end of a task."""
    result = completion.end.result
    assert isinstance(result, Result)
    assert isinstance(result.embeddings, list)
    return result.embeddings


@pytest.mark.req("ORCH-4059", "ORCH-4470", "ORCH-4471", "ORCH-4098")
async def test_embeddings_from_post_to_the_next_life(tmp_path: Path) -> None:
    """The result stands in `end`, the text is the same as JSON under its digest, and both are there after a restart."""
    config = tmp_path / "orchqueue.yaml"
    config.write_text(CONFIG)
    wanted = TaskRequest(inputs=TEXTS, workload="embedding")
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_ready()
        async with AsyncClient(daemon.url) as client:
            before = metric(daemon.url, "tokens_in_total")
            stream = await client.run(wanted)
            first = await stream.result()
            assert metric(daemon.url, "tokens_in_total") > before
            again = await (await client.run(wanted)).result()
            with pytest.raises(InvalidRequest, match="no fitting pool serves workload completion"):
                await client.submit("Once upon a time")
            with pytest.raises(InvalidRequest, match="above ctx 256"):
                await client.submit(TaskRequest(inputs=["word " * 400], workload="embedding"))
            with pytest.raises(InvalidRequest, match="takes inputs"):
                await client.submit(TaskRequest(prompt="hi", workload="embedding"))
        assert daemon.stop() == 0
    vectors = vectors_of(first)
    assert [len(vector) for vector in vectors] == [DIMENSIONS, DIMENSIONS]
    assert vectors[0] != vectors[1]
    assert json.loads(first.text) == {"embeddings": vectors}
    assert first.end.receipt.digest == hashlib.sha256(first.text.encode()).hexdigest() == again.end.receipt.digest
    assert (first.end.tokens_out, first.end.finish_reason) == (0, "stop")
    with running(tmp_path / "data", config) as daemon:
        async with AsyncClient(daemon.url) as client:
            later = await client.stream(stream.task_id).result()
    assert (later.text, vectors_of(later)) == (first.text, vectors)


@pytest.mark.req("ORCH-4059", "ORCH-4226")
def test_the_command_line_asks_for_vectors(tmp_path: Path) -> None:
    """`orchq run --workload embedding --input …` prints the result as JSON."""
    config = tmp_path / "orchqueue.yaml"
    config.write_text(CONFIG)
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_ready()
        command = [sys.executable, "-m", "orchqueue.cli.main", "run", "--url", daemon.url, "--workload", "embedding"]
        done = subprocess.run(
            [*command, "--input", TEXTS[0], "--input", TEXTS[1]], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert [len(vector) for vector in json.loads(done.stdout)["embeddings"]] == [DIMENSIONS, DIMENSIONS]
