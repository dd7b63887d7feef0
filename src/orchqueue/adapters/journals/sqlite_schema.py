"""The tables of the journal's file, as steps forward from one version to the next.

Req: ORCH-4185, ORCH-4375
"""

from __future__ import annotations

import sqlite3

from orchqueue.ports.errors import JournalError

APPLICATION_ID = 0x4F51_4A31

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE schema_version (version INTEGER NOT NULL)",
        "INSERT INTO schema_version VALUES (0)",
        """CREATE TABLE tasks (
          number INTEGER PRIMARY KEY,
          key TEXT NOT NULL UNIQUE,
          accepted BLOB NOT NULL,
          bound INTEGER NOT NULL DEFAULT 0,
          ended_number INTEGER,
          ended BLOB
        )""",
        "CREATE INDEX tasks_by_end ON tasks (ended_number) WHERE ended_number IS NOT NULL",
    ),
    # What was used before the tables were made is not in them: usage is whole from the next second on.
    (
        """CREATE TABLE usage (
          day INTEGER NOT NULL,
          tenant TEXT NOT NULL,
          key_id TEXT NOT NULL,
          model_ref TEXT NOT NULL,
          accepted INTEGER NOT NULL,
          succeeded INTEGER NOT NULL,
          failed INTEGER NOT NULL,
          canceled INTEGER NOT NULL,
          tokens_in INTEGER NOT NULL,
          tokens_out INTEGER NOT NULL,
          decode_ms INTEGER NOT NULL,
          PRIMARY KEY (day, tenant, key_id, model_ref)
        ) WITHOUT ROWID""",
        "CREATE TABLE usage_since (since_ms INTEGER NOT NULL)",
        "INSERT INTO usage_since VALUES ((CAST(strftime('%s', 'now') AS INTEGER) + 1) * 1000)",
    ),
    # From here on `tasks.bound` holds the latest start; in older rows it is 1 where there was one.
    (
        "ALTER TABLE tasks ADD COLUMN followed INTEGER NOT NULL DEFAULT 0",
        """CREATE TABLE texts (
          key TEXT NOT NULL,
          at_bytes INTEGER NOT NULL,
          text BLOB NOT NULL,
          tokens_out INTEGER NOT NULL,
          PRIMARY KEY (key, at_bytes)
        ) WITHOUT ROWID""",
    ),
)
"""What leads to version 1, 2, 3 … from the one before. A step that was released is never changed."""

SCHEMA_VERSION = len(STEPS)


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """Tell the version of a file that is empty or ours.

    Shape: 0: nothing is in it yet.
    Errors: JournalError when it is another program's, or of a release with other versions; sqlite3.Error.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID or "schema_version" not in tables:
        raise JournalError(f"{path} is a database of some other program; name another journal.path")
    (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    if version not in range(1, SCHEMA_VERSION + 1):
        message = (
            f"the journal {path} was written by another release (schema {version}, this one knows"
            f" {SCHEMA_VERSION}); start that release, or use another data directory"
        )
        raise JournalError(message)
    return int(version)


def bring_forward(connection: sqlite3.Connection, version: int) -> None:
    """Take the steps that are missing, in one transaction: whatever interrupts it leaves the old version whole.

    Errors: sqlite3.Error.
    Req: ORCH-4375
    """
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if version == 0:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION,))
    connection.execute("COMMIT")
