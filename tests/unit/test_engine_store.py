"""The state store: group commit, durability across reopen, quarantine, migrations."""

import asyncio
import os
import sqlite3
import stat

import pytest

from pystack.engine.store import MIGRATIONS, Store
from pystack.kernel import failpoints
from pystack.model.errors import EngineError


def test_what_was_put_is_there_after_a_reopen(tmp_path):
    path = str(tmp_path / "state.db")

    async def scene():
        store = Store.open(path)
        table = store.table("t")
        await table.put("a", "1")
        await table.put("a", "2")
        await table.put("b", "3")
        await table.delete("b")
        assert dict(table.all()) == {"a": "2"}
        await store.close()

    asyncio.run(scene())
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again = Store.open(path)
    assert dict(again.table("t").all()) == {"a": "2"}
    assert again.table("other").get("a") is None
    asyncio.run(again.close())


def test_fifty_writers_at_once_share_a_few_commits(tmp_path):
    async def scene():
        store = Store.open(str(tmp_path / "state.db"))
        table = store.table("t")
        await asyncio.gather(*(table.put(str(n), "x" * 3000) for n in range(50)))
        await store.close()
        return store.commits

    assert asyncio.run(scene()) <= 3


def test_a_failed_commit_is_an_error_for_its_writers_and_the_next_one_works(tmp_path):
    async def scene():
        store = Store.open(str(tmp_path / "state.db"))
        table = store.table("t")
        failpoints.configure("store.commit.before=1*error")
        try:
            with pytest.raises(EngineError, match="cannot write to the state store"):
                await table.put("a", "1")
        finally:
            failpoints.configure("")
        await table.put("b", "2")
        await store.close()

    asyncio.run(scene())
    store = Store.open(str(tmp_path / "state.db"))
    assert dict(store.table("t").all()) == {"b": "2"}
    asyncio.run(store.close())


def test_a_cancelled_writer_does_not_disturb_the_others(tmp_path):
    async def scene():
        store = Store.open(str(tmp_path / "state.db"))
        table = store.table("t")
        first = asyncio.ensure_future(table.put("a", "1"))
        second = asyncio.ensure_future(table.put("b", "2"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        await store.close()
        assert first.cancelled()

    asyncio.run(scene())


def test_quarantine_keeps_the_bad_row_aside(tmp_path):
    path = str(tmp_path / "state.db")

    async def scene():
        store = Store.open(path)
        table = store.table("t")
        await table.put("bad", "{")
        await table.quarantine("bad", "not a record")
        assert table.get("bad") is None
        await store.close()

    asyncio.run(scene())
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT tbl, key, value, reason FROM quarantine").fetchall() == [
            ("t", "bad", "{", "not a record")
        ]
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (0,)
    connection.close()


def test_a_database_of_a_newer_pystack_and_garbage_are_refused(tmp_path):
    newer, garbage = str(tmp_path / "newer.db"), str(tmp_path / "garbage.db")
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(EngineError, match=r"cannot open newer\.db: its schema is version"):
        Store.open(newer)
    (tmp_path / "garbage.db").write_bytes(b"not a database" * 200)
    with pytest.raises(EngineError, match="cannot open the state store"):
        Store.open(garbage)
    assert (tmp_path / "garbage.db").read_bytes().startswith(b"not a database"), "nothing was changed"
