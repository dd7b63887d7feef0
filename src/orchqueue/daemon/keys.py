"""`orchestratord keys`: create, list, rotate and revoke, on the file, whether or not a daemon runs."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime

import msgspec

from orchqueue.adapters.keys import KeyRecord, KeysError, KeyStore
from orchqueue.adapters.system import DataDirectoryError, default_data_dir, ensure_private_directory
from orchqueue.daemon.exit_codes import ExitCode


def run_keys(arguments: argparse.Namespace) -> int:
    """Carry out one action; a new key goes to standard output alone, so that it can be piped into a safe place.

    Req: ORCH-4032
    """
    try:
        data_dir = ensure_private_directory(arguments.data_dir or default_data_dir())
        store = KeyStore(arguments.keys_file, data_dir)
        match arguments.action:
            case "create":
                record, key = store.create(arguments.tenant, tuple(arguments.scope or ["tasks"]))
                _show_new(record, key, as_json=arguments.json)
            case "rotate":
                record, key = store.rotate(arguments.id, arguments.grace_s)
                _show_new(record, key, as_json=arguments.json)
            case "revoke":
                record = store.revoke(arguments.id)
                print(_json([record]) if arguments.json else f"{record.id} ends {_instant(record.ends_at_s)}")
            case "list":
                _show_list(store.records(), as_json=arguments.json)
    except KeysError as error:
        print(f"orchestratord keys: {error}", file=sys.stderr)
        return ExitCode.KEYS_UNUSABLE
    except DataDirectoryError as error:
        print(f"orchestratord keys: {error}", file=sys.stderr)
        return ExitCode.DATA_UNUSABLE
    return ExitCode.OK


def _show_new(record: KeyRecord, key: str, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode({**_public(record), "key": key}).decode())
        return
    print(key)
    scopes = ", ".join(record.scopes)
    print(f"id {record.id}, tenant {record.tenant}, scopes {scopes}; shown this once, kept nowhere", file=sys.stderr)


def _show_list(records: tuple[KeyRecord, ...], *, as_json: bool) -> None:
    if as_json:
        print(_json(list(records)))
        return
    print(f"{'ID':10} {'TENANT':20} {'SCOPES':14} {'CREATED':20} STATE")
    for record in records:
        created = _instant(record.created_at_s)
        print(f"{record.id:10} {record.tenant:20} {','.join(record.scopes):14} {created:20} {_state(record)}")


def _state(record: KeyRecord) -> str:
    if record.ends_at_s is None:
        return "valid"
    verb = "ended" if record.ends_at_s <= time.time() else "ends"
    by = f", replaced by {record.replaced_by}" if record.replaced_by else ""
    return f"{verb} {_instant(record.ends_at_s)}{by}"


def _json(records: list[KeyRecord]) -> str:
    return msgspec.json.encode([_public(record) for record in records]).decode()


def _public(record: KeyRecord) -> dict[str, str | int | list[str] | None]:
    """Leave the HMAC out: nobody who lists keys needs it."""
    return {
        "id": record.id,
        "tenant": record.tenant,
        "scopes": list(record.scopes),
        "created_at_s": record.created_at_s,
        "ends_at_s": record.ends_at_s,
        "replaced_by": record.replaced_by,
    }


def _instant(unix_s: int | None) -> str:
    return "never" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
