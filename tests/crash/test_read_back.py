"""Nothing is dropped on the word of a revision that was not read back from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.errors import StorageError
from streamdgp.store import AtlasStore, FrameLog, LogRecord, RecordKind

_ROWS = 4000  # several pages a column


def changes(number: int, rows: range = range(_ROWS)) -> AtlasChanges:
    """The values of the rows given belong to the commit, those of the others to none."""
    values = np.zeros((_ROWS, 30), np.float32)
    values[rows.start : rows.stop] = np.random.default_rng(number).normal(size=(len(rows), 30))
    return AtlasChanges({"charts": TableChange({"weights": values}, np.arange(rows.start, rows.stop))})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AtlasStore]:
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        yield store


def written_by(store: AtlasStore, commit: Callable[[], object]) -> list[Path]:
    """The chunks that a commit adds."""
    chunks = store.path / "icechunk" / "chunks"
    before = set(chunks.iterdir()) if chunks.exists() else set()
    commit()
    return sorted(set(chunks.iterdir()) - before)


def damage(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))


def log_of(directory: Path, frames: int) -> FrameLog:
    log = FrameLog(directory, segment_bytes=1)  # a segment for each
    for number in range(frames):
        log.append([LogRecord(RecordKind.FRAME, "robot", 1, number + 1, payload=bytes(100))])
    return log


def test_a_chunk_damaged_after_its_commit_keeps_the_frames(store: AtlasStore, tmp_path: Path) -> None:
    with log_of(tmp_path / "log", 6) as log:
        store.commit(changes(1), {"next": 1})
        chunks = written_by(store, lambda: store.commit(changes(2), {"next": 3}))
        damage(chunks[0])
        store.commit(
            changes(2, range(0)), {"next": 4}
        )  # writes nothing, so that revision 2 is the one before
        with pytest.raises(StorageError, match=r"read back \(revision 2, table charts, column weights\)"):
            log.drop_payloads(3, store.prove)
        assert log.dropped_before == 0
        assert [record.kind for record in log.records()] == [RecordKind.FRAME] * 6
        # Once the page has been written anew, the revisions after it are as good as any.
        store.commit(changes(3), {"next": 5})
        store.commit(changes(4), {"next": 6})
        assert log.drop_payloads(5, store.prove) > 0
        assert log.dropped_before == 5


@pytest.mark.parametrize("way", ["other", "gone", "older"])
def test_chunks_with_the_right_checksum_in_the_wrong_place_are_seen(store: AtlasStore, way: str) -> None:
    old = written_by(store, lambda: store.commit(changes(1), {"next": 1}))
    store.commit(changes(1, range(0)), {"next": 1})
    assert store.prove() == 1
    new = written_by(store, lambda: store.commit(changes(2), {"next": 2}))
    match way:
        case "other":
            content = new[0].read_bytes()
            shutil.copyfile(new[1], new[0])
            new[1].write_bytes(content)
        case "gone":
            new[0].unlink()
        case "older":
            shutil.copyfile(old[0], new[0])
    assert store.prove() == 2  # the newest is not looked at: what is gone back to is the one before
    store.commit(changes(2, range(0)), {"next": 3})
    with pytest.raises(StorageError, match="read back"):
        store.prove()
    with pytest.raises(StorageError, match="column weights"):
        store.read(3)


def test_only_what_is_new_is_read_back(store: AtlasStore) -> None:
    """So it costs what the commits wrote: chunks that were proven are not opened again."""
    old = written_by(store, lambda: store.commit(changes(1), {"next": 1}))
    store.commit(changes(1, range(0)), {"next": 1})
    store.prove()
    for chunk in old:
        chunk.unlink()
    for number in (2, 3):
        store.commit(changes(number, range(10)), {"next": number})
    assert store.prove() == 3
    with pytest.raises(StorageError, match="column weights"):
        store.read()


def test_older_revisions_stay_while_a_newer_one_is_damaged(store: AtlasStore) -> None:
    store.commit(changes(1), {"next": 1})
    wanted = store.read().state.tables["charts"]["weights"]
    damage(written_by(store, lambda: store.commit(changes(2), {"next": 2}))[0])
    store.commit(changes(2, range(0)), {"next": 3})
    assert store.drop_before(2) == 0
    assert [info.revision for info in store.revisions()] == [1, 2, 3]
    np.testing.assert_array_equal(store.read(1).state.tables["charts"]["weights"], wanted)


def test_a_store_that_was_opened_again_proves_what_it_writes(store: AtlasStore) -> None:
    store.commit(changes(1), {"next": 1})
    store.close()
    with closing(AtlasStore.open(store.path)) as again:
        damage(written_by(again, lambda: again.commit(changes(2), {"next": 2}))[0])
        assert again.prove() == 1
        again.commit(changes(2, range(0)), {"next": 3})
        with pytest.raises(StorageError, match="read back"):
            again.prove()
