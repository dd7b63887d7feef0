"""The model repository that the real tritonserver is given."""

from pathlib import Path

import pytest

from tools.triton_install import LOCK, expected_stamp
from tools.triton_repository import BLS, ENSEMBLE, INPUTS, OUTPUTS, write_repository


@pytest.mark.req("ORCH-4460")
def test_repository_holds_both_models_with_the_tensors_of_tensorrt_llm(tmp_path: Path) -> None:
    """Both models declare every tensor, the ensemble hands each one through, and a second writing changes nothing."""
    for _ in range(2):
        write_repository(tmp_path, "http://127.0.0.1:9", accumulate_tokens=True)
        texts = {model: (tmp_path / model / "config.pbtxt").read_text() for model in (BLS, ENSEMBLE)}
        for name in (*INPUTS, *OUTPUTS):
            assert all(f'name: "{name}"' in text for text in texts.values())
            assert f'_map {{ key: "{name}" value: "{name}" }}' in texts[ENSEMBLE]
        assert 'key: "accumulate_tokens" value: { string_value: "true" }' in texts[BLS]
        assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
            "config.pbtxt", "config.pbtxt", "model.py",
        ]  # fmt: skip


@pytest.mark.req("ORCH-4460")
def test_stamp_follows_the_lock() -> None:
    """An installation is done again when the lock changes: the stamp holds the lock's digest, and the lock no address."""
    assert len(expected_stamp().split()[1]) == 64
    assert "://" not in LOCK.read_text()
