"""What `orchestratord check` tells of model files, and that `serve` does not ask."""

from pathlib import Path

import msgspec
import pytest

from orchqueue.config.loader import load
from orchqueue.daemon.check import check
from orchqueue.daemon.exit_codes import ExitCode
from orchqueue.daemon.main import main
from tests.model_files import digest_of, flip_a_byte, small

POOL = "  - {{id: {name}, engine: llamacpp, model: '{model}', allow_cpu: true{more}}}\n"


def written(folder: Path, *pools: tuple[str, str, str], rest: str = "") -> str:
    """Write a configuration of these pools: name, model, more fields."""
    path = folder / "c.yaml"
    path.write_text("pools:\n" + "".join(POOL.format(name=n, model=m, more=more) for n, m, more in pools) + rest)
    return str(path)


def told(capsys: pytest.CaptureFixture[str], path: str, *, checksums: bool = False) -> list[str]:
    """Check a file that has problems, and list them."""
    assert check(path, as_json=True, checksums=checksums) == ExitCode.BAD_INPUT
    problems: list[dict[str, object]] = msgspec.json.decode(capsys.readouterr().out)
    return [f"{problem['line']} {problem['path']}: {problem['message']} ({problem['fix']})" for problem in problems]


@pytest.mark.req("ORCH-4427", "ORCH-4031")
def test_check_tells_what_is_wrong_with_model_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing and cut-off files are told with their place in the configuration; the daemon takes the file all the same."""
    (tmp_path / "good.gguf").write_bytes(small())
    (tmp_path / "cut.gguf").write_bytes(small()[:-4])
    path = written(
        tmp_path,
        ("a", "file:good.gguf", ""),
        ("b", "file:cut.gguf", ""),
        ("c", "file:gone.gguf", ""),
        ("d", "bundled:nothing", ""),
        ("e", "file:gone.gguf", ", launch: {mode: external, urls: ['http://127.0.0.1:1']}"),
        ("f", f"sha256:{'1' * 64}", ""),
        rest=f"model_dir: {tmp_path}\n",
    )
    found = told(capsys, path)
    missing = f"is cut off: 4 of {len(small())} bytes are missing (copy or download it again)"
    assert found[:2] == [
        f"3 pools[1].model: model file {tmp_path}/cut.gguf {missing}",
        f"4 pools[2].model: model file {tmp_path}/gone.gguf is not there (put it there or correct the path)",
    ]
    assert len(found) == 3
    assert found[2].startswith("5 pools[3].model: bundled:nothing is unknown (known: ")
    assert len(load(path).pools) == 6


@pytest.mark.req("ORCH-4427", "ORCH-3037")
def test_check_compares_checksums_when_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One wrong byte shows only when the file is read whole; a model that is named by its content is looked for."""
    model = tmp_path / "m.gguf"
    model.write_bytes(small())
    digest = digest_of(model)
    path = written(
        tmp_path,
        ("a", f"file:{model}", f", model_sha256: {digest}"),
        ("b", f"sha256:{digest}", ""),
        rest=f"model_dir: {tmp_path}\n",
    )
    assert main(["check", "--checksums", path]) == ExitCode.OK
    capsys.readouterr()
    flip_a_byte(model)
    assert main(["check", path]) == ExitCode.OK
    capsys.readouterr()
    wrong, gone = told(capsys, path, checksums=True)
    assert f"but {digest} is demanded (the file is damaged or another one: copy or download it again" in wrong
    assert f"3 pools[1].model: no model in {tmp_path} has sha256 {digest} (put it there)" == gone


@pytest.mark.req("ORCH-4427")
def test_a_problem_without_advice_names_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the store says in one part is told whole."""
    path = written(tmp_path, ("a", f"sha256:{'1' * 64}", ""), rest="model_dir: gone\n")
    found, _ = told(capsys, path, checksums=True)
    assert found == f"2 pools[0].model: model_dir {tmp_path}/gone: No such file or directory (see docs/models.md)"
