"""API keys: a file of their HMACs, and the ring that verifies callers against it.

A key is `oq_ID_RANDOM`. The file knows its id and HMAC-SHA-256 under a secret that lies in the data directory; the key
itself is shown once and kept nowhere.

Req: ORCH-4032
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from orchqueue.adapters.private_files import (
    PrivateFileError,
    create_private,
    exclusively,
    read_private,
    replace_private,
)
from orchqueue.core.ids import Tenant
from orchqueue.ports.auth import Identity, Scope
from orchqueue.ports.errors import PortError

SECRET_NAME = "keys.secret"
RECHECK_S = 1.0
FILE_LIMIT_BYTES = 16 << 20
TOKEN_LIMIT_CHARACTERS = 256

_SECRET_BYTES = 32
_ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DUMMY = hashlib.sha256(b"").hexdigest()


R = TypeVar("R")


class KeysError(PortError):
    """The keys cannot be read or changed. The message says why and what to do."""


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of one key.

    Units: `*_at_s` unix seconds. `ends_at_s`: when a revoked or rotated key stops to be valid.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{4,32}$")]
    tenant: Tenant
    scopes: tuple[Scope, ...]
    hmac_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_at_s: int
    ends_at_s: int | None = None
    replaced_by: str | None = None


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    secret_id: str
    keys: tuple[KeyRecord, ...] = ()


_decode = msgspec.json.Decoder(_KeysFile).decode


class KeyStore:
    """The file as its editors see it. Every change takes a lock, re-reads, and replaces the file as a whole.

    Errors: every method raises KeysError.
    Req: ORCH-3035
    """

    def __init__(self, path: str, data_dir: str, now_s: Callable[[], float] = time.time) -> None:
        self.path = path
        self._secret_path = os.path.join(data_dir, SECRET_NAME)
        self._now_s = now_s

    def create(self, tenant: str, scopes: tuple[Scope, ...]) -> tuple[KeyRecord, str]:
        """Add a key.

        Shape: what is kept, and the key itself, which cannot be shown again.
        """
        if not _NAME.fullmatch(tenant):
            raise KeysError(f"'{tenant[:64]}' is no tenant: letters, digits, '.', '_' and '-', at most 64")
        if not scopes:
            raise KeysError("a key needs at least one scope: tasks, control")
        return self._change(lambda file, secret: self._with_new(file, secret, tenant, scopes))

    def records(self) -> tuple[KeyRecord, ...]:
        """Give all keys, revoked ones too, oldest first."""
        try:
            return self.read().keys
        except PrivateFileError as error:
            raise KeysError(str(error)) from error

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key at once; one that ended already keeps its time."""

        def end(file: _KeysFile, _: bytes) -> tuple[_KeysFile, KeyRecord]:
            record = _find(file, key_id)
            now_s = int(self._now_s())
            ends_at_s = now_s if record.ends_at_s is None else min(record.ends_at_s, now_s)
            ended = msgspec.structs.replace(record, ends_at_s=ends_at_s)
            return _put(file, ended), ended

        return self._change(end)

    def rotate(self, key_id: str, grace_s: int = 0) -> tuple[KeyRecord, str]:
        """Give a key's holder a new one; the old one ends after the grace.

        Shape: what is kept of the new key, and the key itself.
        """

        def turn(file: _KeysFile, secret: bytes) -> tuple[_KeysFile, tuple[KeyRecord, str]]:
            old = _find(file, key_id)
            now_s = int(self._now_s())
            if old.ends_at_s is not None:
                raise KeysError(f"the key {key_id} was revoked or rotated before; create a new one instead")
            file, (new, token) = self._with_new(file, secret, old.tenant, old.scopes)
            ended = msgspec.structs.replace(old, ends_at_s=now_s + max(0, grace_s), replaced_by=new.id)
            return _put(file, ended), (new, token)

        return self._change(turn)

    def read(self) -> _KeysFile:
        """Read the file and check that it was made with our secret.

        Errors: KeysError; PrivateFileError when it cannot be read at all.
        Req: ORCH-4198
        """
        data = read_private(self.path, FILE_LIMIT_BYTES)
        try:
            file = _decode(data)
        except msgspec.DecodeError as error:
            raise KeysError(f"{self.path} is no keys file: {error}; restore it or create the keys anew") from error
        if file.secret_id != _secret_id(self.secret()):
            message = (
                f"{self.path} was made with another secret than {self._secret_path}; use the data directory that"
                " its keys were created with (--data-dir), or create the keys anew"
            )
            raise KeysError(message)
        return file

    def secret(self) -> bytes:
        """Read the HMAC secret, and make it where there is none yet."""
        try:
            if not os.path.lexists(self._secret_path):
                create_private(self._secret_path, secrets.token_bytes(_SECRET_BYTES))
            secret = read_private(self._secret_path, _SECRET_BYTES)
        except PrivateFileError as error:
            raise KeysError(str(error)) from error
        if len(secret) != _SECRET_BYTES:
            raise KeysError(f"{self._secret_path} is damaged: it must have {_SECRET_BYTES} bytes; restore it")
        return secret

    def _with_new(
        self, file: _KeysFile, secret: bytes, tenant: str, scopes: tuple[Scope, ...]
    ) -> tuple[_KeysFile, tuple[KeyRecord, str]]:
        taken = {record.id for record in file.keys}
        key_id = _new_id()
        while key_id in taken:
            key_id = _new_id()
        token = f"oq_{key_id}_{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            id=key_id,
            tenant=Tenant(tenant),
            scopes=tuple(sorted(set(scopes))),
            hmac_sha256=_digest(secret, token),
            created_at_s=int(self._now_s()),
        )
        return msgspec.structs.replace(file, keys=(*file.keys, record)), (record, token)

    def _change(self, change: Callable[[_KeysFile, bytes], tuple[_KeysFile, R]]) -> R:
        try:
            with exclusively(self.path):
                secret = self.secret()
                empty = _KeysFile(version=1, secret_id=_secret_id(secret))
                file = self.read() if os.path.lexists(self.path) else empty
                file, result = change(file, secret)
                replace_private(self.path, msgspec.json.format(msgspec.json.encode(file)) + b"\n")
                return result
        except PrivateFileError as error:
            raise KeysError(str(error)) from error


class KeyRing:
    """Verifies callers. Looks at the file again at most once a second, so that a revocation works while we serve.

    A file that cannot be read any more leaves the last good keys in force and is told through `on_problem`, once.

    Errors: KeysError at construction.
    Req: ORCH-4032, ORCH-4197
    """

    def __init__(
        self,
        store: KeyStore,
        on_problem: Callable[[str], None],
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._on_problem = on_problem
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._secret = store.secret()
        self._seen = _stamp(store.path)
        self._checked_at_s = monotonic_s()
        self._records = {record.id: record for record in store.records()}

    def verify(self, token: str) -> Identity | None:
        """Tell whose key it is; None when it is nobody's, was revoked or has expired.

        Cost: one HMAC and one comparison, whether or not the id exists; a stat once a second.
        Req: ORCH-4191
        """
        self._refresh()
        if len(token) > TOKEN_LIMIT_CHARACTERS:
            return None
        parts = token.split("_", 2)
        record = self._records.get(parts[1]) if len(parts) == 3 and parts[0] == "oq" else None
        expected = record.hmac_sha256 if record is not None else _DUMMY
        matches = hmac.compare_digest(expected, _digest(self._secret, token))
        if record is None or not matches:
            return None
        if record.ends_at_s is not None and record.ends_at_s <= self._now_s():
            return None
        return Identity(record.tenant, record.id, frozenset(record.scopes))

    def _refresh(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._checked_at_s < RECHECK_S:
            return
        self._checked_at_s = now_s
        stamp = _stamp(self._store.path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._records = {record.id: record for record in self._store.records()}
        except KeysError as error:
            self._on_problem(f"the keys stay as they were: {error}")


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _new_id() -> str:
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def _digest(secret: bytes, token: str) -> str:
    return hmac.new(secret, token.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _secret_id(secret: bytes) -> str:
    """Name a secret without telling it, so that a file and a secret that do not belong together are noticed."""
    return hashlib.sha256(b"orchqueue keys secret" + secret).hexdigest()[:16]


def _find(file: _KeysFile, key_id: str) -> KeyRecord:
    for record in file.keys:
        if record.id == key_id:
            return record
    raise KeysError(f"there is no key with the id '{key_id[:40]}'; see `orchestratord keys list`")


def _put(file: _KeysFile, record: KeyRecord) -> _KeysFile:
    keys = tuple(record if known.id == record.id else known for known in file.keys)
    return msgspec.structs.replace(file, keys=keys)
