"""Whether a file can be a model, told from its first bytes, its metadata and its table of tensors."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchqueue.adapters.gguf import GgufError, read_head
from orchqueue.adapters.model_file import ModelFileError, look_at_gguf, same_now, stamp_of
from tests.model_files import F32, change_unseen, copy_of_bundled, head, pair, small, tensor, text

LLAMA = {"general.architecture": "llama"}


def told(path: Path) -> str:
    """Look at a file that is wrong, and check the form of what is told."""
    with pytest.raises(ModelFileError) as caught:
        look_at_gguf(path)
    said = str(caught.value)
    assert said.startswith(f"model file {path} ")
    assert "\n" not in said
    assert said.count("model file ") == 1
    assert said == f"{caught.value.problem}; {caught.value.advice}"
    return said


@pytest.mark.req("ORCH-4426")
def test_a_whole_model_tells_about_itself(tmp_path: Path) -> None:
    """Size, architecture, quantisation and context come from the file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(small())
    found = look_at_gguf(path)
    assert (found.size_bytes, found.architecture, found.quantisation, found.ctx_tokens) == (
        len(small()),
        "llama",
        "F16",
        4096,
    )


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4421")
def test_the_bundled_weights_end_where_their_table_says(tmp_path: Path) -> None:
    """A real model's table of tensors tells its size to the byte, so one missing byte is noticed."""
    path = tmp_path / "m.gguf"
    copy_of_bundled(path)
    assert read_head(path).ends_at_bytes == path.stat().st_size
    os.truncate(path, path.stat().st_size - 1)
    assert "is cut off: 1 of 98362432 bytes are missing; copy or download it again" in told(path)


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty; copy or download it again"),
    "zip": (b"PK\x03\x04" + bytes(60), "is a zip archive"),
    "safetensors": ((300).to_bytes(8, "little") + b'{"__metadata__":{}}', "is in the safetensors format"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "old": (b"ggjt" + bytes(40), "is in the format before GGUF"),
    "noise": (b"nothing of the kind", "is not a GGUF file: it begins like no kind of model"),
    "signature": (b"GG", "ends within its header, after 2 bytes; copy or download it again"),
    "version": (head(LLAMA, version=9), "has GGUF version 9; known are 2 and 3"),
    "big-endian": (head(LLAMA, order=">"), "is a GGUF file for big-endian machines; use a GGUF model"),
    "adapter": (small(general__type="adapter"), "is a LoRA adapter and no model; name the model that it belongs to"),
    "projector": (small(general__architecture="clip"), "is a projector for images or sound (mmproj) and no model"),
    "matrix": (small(general__type="imatrix"), "is an importance matrix and no model"),
    "unknown type": (small(general__type="poem"), "is of the type 'poem' and no model"),
    "no architecture": (head({"general.name": "x"}), "does not say which architecture it has"),
    "many keys": (b"GGUF" + bytes([3, 0, 0, 0]) + bytes(8) + b"\xff" * 8, "claims 18446744073709551615 keys"),
    "long text": (head({})[:16] + bytes([1]) + bytes(7) + b"\xff" * 8, "claims a text of 18446744073709551615 bytes"),
    "alignment": (head(LLAMA | {"general.alignment": 0}), "claims an alignment of 0"),
    "dimensions": (head(LLAMA, text("t") + bytes([9]) + bytes(19)), "its tensor t claims 9 dimensions; copy"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.req("ORCH-4420")
def test_each_wrong_file_says_what_it_is_and_what_to_do(name: str, tmp_path: Path) -> None:
    """What is no model, or no model for this machine, is refused in words of its own."""
    data, said = WRONG[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert said in told(path)


@pytest.mark.req("ORCH-4421")
def test_every_place_where_a_file_may_be_cut_is_told(tmp_path: Path) -> None:
    """Cut anywhere, a file is refused, and the part that it ends in is named; whole, it is good."""
    whole, path = small(), tmp_path / "m.gguf"
    metadata_at, table_at, data_at = 24, whole.index(b"token_embd") - 8, len(whole) - 4 * 64
    for size_bytes in range(1, len(whole)):
        path.write_bytes(whole[:size_bytes])
        said = told(path)
        if size_bytes >= data_at:
            assert f"is cut off: {len(whole) - size_bytes} of {len(whole)} bytes are missing" in said
        elif size_bytes < metadata_at:
            assert "ends within its header" in said
        elif size_bytes < table_at:
            assert "ends within its metadata" in said
        else:
            assert "ends within its table of tensors" in said or "is cut off" in said
    path.write_bytes(whole + b"more")
    look_at_gguf(path)


def test_an_array_that_claims_more_than_there_is_is_cut_off(tmp_path: Path) -> None:
    """A length beyond all files is told like any other cut, whatever it would come to in bytes."""
    path = tmp_path / "m.gguf"
    entry = pair("k", 1).replace((4).to_bytes(4, "little"), (9).to_bytes(4, "little"), 1)[:-4]
    begin = head({})[:16] + (1).to_bytes(8, "little")
    path.write_bytes(begin + entry + (10).to_bytes(4, "little") + b"\xff" * 8)
    assert "ends within its metadata" in told(path)


def test_tensors_of_types_to_come_count_as_nothing(tmp_path: Path) -> None:
    """A type that only a newer engine knows is left to the engine."""
    path = tmp_path / "m.gguf"
    path.write_bytes(head(LLAMA, tensor("a", 8, 0, F32), tensor("b", 1 << 40, 32, 200)) + bytes(32))
    look_at_gguf(path)


def in_place(path: Path) -> None:
    """Leave nothing there."""


def directory(path: Path) -> None:
    """Put a directory there."""
    path.mkdir()


def dangling(path: Path) -> None:
    """Put a link there that leads nowhere."""
    path.symlink_to("gone.gguf")


def looping(path: Path) -> None:
    """Put a link there that leads to itself."""
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (in_place, "is not there; put it there or correct the path"),
        (directory, "is a directory; name the model's file itself"),
        (dangling, "is a link to gone.gguf, which is not there; mend the link"),
        (looping, "cannot be read: Too many levels of symbolic links"),
        (os.mkfifo, "is no regular file"),
    ],
)
@pytest.mark.req("ORCH-4420")
def test_what_is_no_file_is_told(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    """A path that leads to no file says what is there in its place."""
    make(tmp_path / "m.gguf")
    assert said in told(tmp_path / "m.gguf")


@pytest.mark.req("ORCH-4420")
def test_a_file_that_we_may_not_read_is_told() -> None:
    """A user without the right is told so; root, whom no right stops, becomes another user for this."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom orchqueue.adapters.model_file import ModelFileError, look_at_gguf\n"
        "os.geteuid() or os.setuid(65534)\n"
        "try:\n    look_at_gguf(Path(sys.argv[1]))\nexcept ModelFileError as error:\n    print(error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "m.gguf"
        path.write_bytes(small())
        path.chmod(0)
        ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    expected = f"model file {path} cannot be read: permission denied; give the daemon's user the right\n"
    assert ran.stdout == expected


def split(folder: Path, count: int = 3) -> list[Path]:
    """Write a model in several parts."""
    parts = [folder / f"m-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for number, part in enumerate(parts):
        part.write_bytes(small(split__no=number, split__count=count, elements=8 * (number + 1)))
    return parts


@pytest.mark.req("ORCH-4428")
def test_a_split_model_is_all_of_its_parts(tmp_path: Path) -> None:
    """Every part counts for size and change; the first one is the model's name."""
    parts = split(tmp_path)
    found = look_at_gguf(parts[0])
    assert found.size_bytes == sum(part.stat().st_size for part in parts)
    assert same_now(found.stamps)
    os.truncate(parts[2], parts[2].stat().st_size - 4)
    assert not same_now(found.stamps)
    with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf is cut off: 4 of \d+ bytes are missing"):
        look_at_gguf(parts[0])
    assert "is not the first of 3 parts; name m-00001-of-00003.gguf" in told(parts[1])
    parts[2].unlink()
    assert "needs 1 more of its 3 parts: m-00003-of-00003.gguf; put them beside it" in told(parts[0])
    parts[0].rename(tmp_path / "m.gguf")
    assert "is one of 3 parts, and its name does not end in -00001-of-00003.gguf" in told(tmp_path / "m.gguf")


@pytest.mark.req("ORCH-4422")
def test_a_change_that_hides_its_time_is_noticed(tmp_path: Path) -> None:
    """A file of the same size whose time of modification was set back is another one."""
    path = tmp_path / "m.gguf"
    path.write_bytes(small())
    before = stamp_of(path)
    change_unseen(path, small()[:-1] + b"x")
    assert stamp_of(path).modified_at_ns == before.modified_at_ns
    assert not same_now((before,))


def test_a_file_whose_disk_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of reading is no wrong file, and is told as what it is."""
    path = tmp_path / "m.gguf"
    path.write_bytes(small())

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("orchqueue.adapters.model_file.read_head", fail)
    assert "cannot be read: Input/output error; see that the disk is well" in told(path)


def test_a_head_that_is_no_gguf_is_an_error_of_its_own(tmp_path: Path) -> None:
    """Whoever reads a head without looking first gets the same exception."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGML" + bytes(20))
    with pytest.raises(GgufError, match="not a GGUF"):
        read_head(path)
