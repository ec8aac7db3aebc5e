"""The state store: SQLite documents, read from memory, written with group commit.

Flows in: JSON texts by table and key. Flows out: the same, after a restart, too. A writer thread owns the connection;
every write queued while one commit runs goes into the next single commit, so that fifty writers at once pay for a few
fsyncs. `put` and `delete` return once their commit is on disk (WAL, synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError

#: Each step takes the database from version n to n+1 (PRAGMA user_version). Never edit one that was released.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE documents (tbl TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (tbl, key))
        WITHOUT ROWID;
    CREATE TABLE quarantine (tbl TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, reason TEXT NOT NULL);
    """,
)

_UPSERT = "INSERT INTO documents (tbl, key, value) VALUES (?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM documents WHERE tbl = ? AND key = ?"
_QUARANTINE = "INSERT INTO quarantine (tbl, key, value, reason) SELECT tbl, key, value, ? FROM documents WHERE tbl = ? AND key = ?"

_Statement = tuple[str, tuple[str, ...]]


class Store:
    """`Store.open(path)`, then `table(name)` for each kind of record. One per engine; used from one event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tables: dict[str, dict[str, str]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._batch: list[_Statement] = []
        self._committed: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self.commits = 0
        for name, key, value in connection.execute("SELECT tbl, key, value FROM documents"):
            self._tables.setdefault(name, {})[key] = value

    @classmethod
    def open(cls, path: str) -> Store:
        """Open or make the database, mode 0600, and migrate it. EngineError when it cannot be used."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, path)
            return cls(connection)
        except sqlite3.DatabaseError as error:
            raise EngineError(
                f"cannot open the state store {path}: {error}",
                hint="nothing was changed; restore the file from a backup or move it away to start empty",
            ) from error

    def table(self, name: str) -> Table:
        return Table(self, name, self._tables.setdefault(name, {}))

    async def write(self, *statements: _Statement) -> None:
        """Put statements into the next commit and wait for it."""
        self._batch.extend(statements)
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        # Shielded: a waiter that is cancelled must not take the others' future with it.
        await asyncio.shield(self._committed)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._batch and self._committed is not None:
            batch, committed = self._batch, self._committed
            self._batch, self._committed = [], None
            try:
                await loop.run_in_executor(self._writer, self._commit, batch)
            except Exception as error:
                committed.set_exception(EngineError(f"cannot write to the state store: {error}"))
                committed.exception()  # all its waiters may be gone: that is not "never retrieved"
            else:
                committed.set_result(None)

    def _commit(self, batch: list[_Statement]) -> None:
        """One transaction, in the writer thread."""
        connection = self._connection
        failpoint("store.commit.before")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in batch:
                connection.execute(sql, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1
        failpoint("store.commit.done")

    async def close(self) -> None:
        """Finish what is queued and close. Idempotent."""
        if self._flusher is not None:
            await self._flusher
        self._writer.shutdown()
        self._connection.close()


class Table:
    """`model.documents.Documents` over one table of the store."""

    __slots__ = ("_memory", "_name", "_store")

    def __init__(self, store: Store, name: str, memory: dict[str, str]) -> None:
        self._store, self._name, self._memory = store, name, memory

    def all(self) -> Mapping[str, str]:
        return MappingProxyType(self._memory)

    def get(self, key: str) -> str | None:
        return self._memory.get(key)

    async def put(self, key: str, text: str) -> None:
        """Memory changes at once, in call order; a failed commit is an error for the caller, who tries again or undoes."""
        self._memory[key] = text
        await self._store.write((_UPSERT, (self._name, key, text)))

    async def delete(self, key: str) -> None:
        if self._memory.pop(key, None) is not None:
            await self._store.write((_DELETE, (self._name, key)))

    async def quarantine(self, key: str, reason: str) -> None:
        """Set a row aside that cannot be read, so that one bad record never keeps the engine from starting."""
        self._memory.pop(key, None)
        await self._store.write((_QUARANTINE, (reason, self._name, key)), (_DELETE, (self._name, key)))


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise EngineError(
            f"cannot open {Path(path).name}: its schema is version {version}, this pystack knows {len(MIGRATIONS)}",
            hint="use the newer pystack that made it",
        )
    for number in range(version, len(MIGRATIONS)):
        # executescript would commit by itself first: the version must change in the same transaction as the schema.
        connection.executescript(f"BEGIN;{MIGRATIONS[number]};PRAGMA user_version = {number + 1};COMMIT")
