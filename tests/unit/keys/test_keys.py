"""Keys: made once, kept as HMACs, verified in constant time, revoked while the daemon serves."""

import hmac
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchqueue.adapters.keys import KeyRing, KeysError, KeyStore
from orchqueue.ports.auth import Identity

pytestmark = pytest.mark.req("ORCH-4032")


class World:
    """A data directory, a keys file and two clocks that are set by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "keys.json"
        self.now_s = 1_000_000.0
        self.monotonic_s = 50.0
        self.problems: list[str] = []
        self.store = KeyStore(str(self.path), str(directory), lambda: self.now_s)

    def ring(self) -> KeyRing:
        """Start a ring as a daemon does."""
        return KeyRing(self.store, self.problems.append, lambda: self.now_s, lambda: self.monotonic_s)

    def pass_time(self, seconds: float) -> None:
        """Move both clocks."""
        self.now_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Give an empty world."""
    return World(tmp_path)


@pytest.mark.req("ORCH-3035")
def test_a_key_is_verified_and_stands_nowhere_on_disk(world: World) -> None:
    """The one who holds the key is known by it; the files know neither it nor its random part."""
    record, key = world.store.create("acme", ("tasks", "control"))
    assert key.startswith(f"oq_{record.id}_")
    assert world.ring().verify(key) == Identity(record.tenant, record.id, frozenset({"tasks", "control"}))
    kept = b"".join(file.read_bytes() for file in world.directory.iterdir())
    assert key.encode() not in kept
    assert key.split("_", 2)[2].encode() not in kept


@pytest.mark.req("ORCH-3035")
def test_files_of_keys_are_private_whatever_the_umask(world: World) -> None:
    """Keys file and secret are readable by their owner only, from the first moment."""
    before = os.umask(0)
    try:
        world.store.create("acme", ("tasks",))
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in world.directory.iterdir()}
    assert modes == {"keys.json": 0o600, "keys.secret": 0o600, "keys.json.lock": 0o600}


@pytest.mark.req("ORCH-4191")
def test_nothing_but_the_whole_key_is_accepted(world: World) -> None:
    """Every near miss is nobody's."""
    record, key = world.store.create("acme", ("tasks",))
    other, _ = world.store.create("acme", ("tasks",))
    ring = world.ring()
    swapped = key.replace(record.id, other.id)
    misses = [
        "", "oq", "oq_", "oq__", f"oq_{record.id}", f"oq_{record.id}_", key[:-1], key + "x", key.upper(), " " + key,
        key + "\n", swapped, key.replace("oq_", "ok_"), "oq_zzzzzzzz_" + key.split("_", 2)[2], "x" * 10_000,
        key + "\x00", "é🙂", "\ud800", record.hmac_sha256, f"oq_{record.id}_{record.hmac_sha256}",
    ]  # fmt: skip
    assert [miss for miss in misses if ring.verify(miss) is not None] == []
    assert ring.verify(key) is not None


@pytest.mark.req("ORCH-4191")
def test_an_unknown_id_costs_the_same_comparison(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the id exists, one HMAC is computed and compared in constant time."""
    _, key = world.store.create("acme", ("tasks",))
    ring = world.ring()
    seen: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(left: str, right: str) -> bool:
        seen.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr("orchqueue.adapters.keys.hmac.compare_digest", compare)
    ring.verify(key)
    ring.verify("oq_zzzzzzzz_nobody")
    ring.verify("garbage")
    assert seen == [(64, 64)] * 3


@pytest.mark.req("ORCH-4197")
def test_a_revoked_key_stops_within_a_second_of_a_running_ring(world: World) -> None:
    """Revocation needs no restart, and the file is not looked at more than once a second."""
    record, key = world.store.create("acme", ("tasks",))
    ring = world.ring()
    world.store.revoke(record.id)
    world.pass_time(0.9)
    assert ring.verify(key) is not None, "looked at the file too often"
    world.pass_time(0.2)
    assert ring.verify(key) is None


@pytest.mark.req("ORCH-4197")
def test_a_new_key_is_known_to_a_running_ring(world: World) -> None:
    """Creation needs no restart either."""
    world.store.create("acme", ("tasks",))
    ring = world.ring()
    _, key = world.store.create("zoo", ("control",))
    world.pass_time(2)
    identity = ring.verify(key)
    assert identity is not None
    assert (identity.tenant, identity.scopes) == ("zoo", frozenset({"control"}))


def test_rotation_ends_the_old_key_after_its_grace(world: World) -> None:
    """Old and new are both good during the grace, then only the new one; the history is kept."""
    old, old_key = world.store.create("acme", ("tasks", "control"))
    ring = world.ring()
    new, new_key = world.store.rotate(old.id, grace_s=60)
    assert (new.tenant, new.scopes) == (old.tenant, old.scopes)
    world.pass_time(59)
    assert ring.verify(old_key) is not None
    assert ring.verify(new_key) is not None
    world.pass_time(2)
    assert ring.verify(old_key) is None
    assert ring.verify(new_key) is not None
    assert [(record.id, record.replaced_by) for record in world.store.records()] == [(old.id, new.id), (new.id, None)]
    with pytest.raises(KeysError, match="rotated before"):
        world.store.rotate(old.id)


def test_rotation_without_grace_ends_the_old_key_at_once(world: World) -> None:
    """A leaked key is gone with its rotation."""
    old, old_key = world.store.create("acme", ("tasks",))
    world.store.rotate(old.id)
    assert world.ring().verify(old_key) is None


def test_revoking_shortens_a_grace_and_never_extends_a_life(world: World) -> None:
    """Revoking during the grace ends it; revoking again later changes nothing."""
    old, old_key = world.store.create("acme", ("tasks",))
    world.store.rotate(old.id, grace_s=1000)
    world.pass_time(10)
    ended = world.store.revoke(old.id)
    assert world.ring().verify(old_key) is None
    world.pass_time(10)
    assert world.store.revoke(old.id).ends_at_s == ended.ends_at_s


def test_a_broken_edit_keeps_the_last_good_keys_and_is_told_once(world: World) -> None:
    """A file that stops being one does not lock everybody out, and does not stay unnoticed."""
    record, key = world.store.create("acme", ("tasks",))
    ring = world.ring()
    good = world.path.read_bytes()
    world.path.write_bytes(b"{ half")
    for _ in range(3):
        world.pass_time(2)
        assert ring.verify(key) is not None
    assert len(world.problems) == 1
    assert "is no keys file" in world.problems[0]
    world.path.write_bytes(good)
    world.store.revoke(record.id)
    world.pass_time(2)
    assert ring.verify(key) is None


@pytest.mark.parametrize("name", ["keys.json", "keys.secret"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
@pytest.mark.req("ORCH-4198")
def test_files_that_others_can_read_or_write_are_refused(world: World, name: str, mode: int) -> None:
    """What leaked or may have been tampered with is not trusted, and the message names the remedy."""
    world.store.create("acme", ("tasks",))
    (world.directory / name).chmod(mode)
    for use in (world.ring, world.store.records, lambda: world.store.create("acme", ("tasks",))):
        with pytest.raises(KeysError, match=rf"{name} \(mode 0{mode:o}\); run: chmod 600"):
            use()


def test_keys_of_another_data_directory_are_told_apart(world: World, tmp_path: Path) -> None:
    """A file and a secret that do not belong together are an error that says so, not a ring that knows nobody."""
    world.store.create("acme", ("tasks",))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(KeysError, match="made with another secret"):
        KeyRing(KeyStore(str(world.path), str(other)), print)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version":2,"secret_id":"x","keys":[]}', b"\xff", b'{"version":1}'])
@pytest.mark.req("ORCH-4198")
def test_what_is_no_keys_file_is_refused(world: World, content: bytes) -> None:
    """Damage and foreign versions are told, and never overwritten."""
    world.path.write_bytes(content)
    world.path.chmod(0o600)
    for use in (world.ring, lambda: world.store.create("acme", ("tasks",))):
        with pytest.raises(KeysError, match="is no keys file"):
            use()
    assert world.path.read_bytes() == content


def test_a_missing_file_is_told_to_a_daemon(world: World) -> None:
    """A ring without its file does not start."""
    with pytest.raises(KeysError, match="cannot be read: No such file"):
        world.ring()


@pytest.mark.parametrize("tenant", ["", "a b", "../x", "a/b", "x" * 65, "é"])
def test_a_tenant_that_is_no_name_is_refused(world: World, tenant: str) -> None:
    """Names that would not survive a path or a label are refused before anything is written."""
    with pytest.raises(KeysError, match="is no tenant"):
        world.store.create(tenant, ("tasks",))
    assert not world.path.exists()


def test_an_unknown_id_is_told(world: World) -> None:
    """Revoking or rotating what is not there is an error."""
    world.store.create("acme", ("tasks",))
    for act in (world.store.revoke, world.store.rotate):
        with pytest.raises(KeysError, match="no key with the id 'nope'"):
            act("nope")


def test_edits_at_the_same_time_lose_nothing(world: World) -> None:
    """Several processes create keys at once; every key is there afterwards, under one secret."""
    command = [sys.executable, "-m", "orchqueue.daemon.main", "keys", "create", "--keys-file", str(world.path)]
    command += ["--tenant", "acme", "--data-dir", str(world.directory)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    keys = [child.communicate()[0].strip() for child in children]
    assert [child.returncode for child in children] == [0] * 6
    ring = world.ring()
    assert all(ring.verify(key) is not None for key in keys)
    assert len(world.store.records()) == 6
    assert not [name for name in os.listdir(world.directory) if name.startswith(".")]


def test_a_crash_while_replacing_leaves_the_old_file_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new content appears under the name only when it is complete."""
    world.store.create("acme", ("tasks",))
    before = world.path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(KeysError, match="No space left"):
        world.store.create("acme", ("tasks",))
    assert world.path.read_bytes() == before
    assert not [name for name in os.listdir(world.directory) if name.startswith(".")]


def test_the_file_is_plain_json_for_other_tools(world: World) -> None:
    """What is kept of a key is documented by its field names."""
    record, _ = world.store.create("acme", ("tasks",))
    content = json.loads(world.path.read_bytes())
    assert content["version"] == 1
    assert content["keys"] == [
        {
            "id": record.id,
            "tenant": "acme",
            "scopes": ["tasks"],
            "hmac_sha256": record.hmac_sha256,
            "created_at_s": 1_000_000,
            "ends_at_s": None,
            "replaced_by": None,
        }
    ]
