"""The atlas store on real files: exact bits, history, paging, damage, locks."""

from __future__ import annotations

import datetime
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.atlas.changes import AtlasChanges, AtlasState, TableChange
from streamdgp.errors import AlreadyExistsError, NotFoundError, StorageError
from streamdgp.memory import MemoryBudget
from streamdgp.store import AtlasStore

Columns = dict[str, npt.NDArray[Any]]


def make_columns(rows: int, seed: int) -> Columns:
    rng = np.random.default_rng(seed)
    return {
        "weights": rng.normal(size=(rows, 40, 6)).astype(np.float32),
        "key": rng.integers(-(2**62), 2**62, size=rows),
        "alive": rng.integers(0, 2, size=rows).astype(bool),
        "code": rng.integers(0, 2**63, size=(rows, 2)).astype(np.uint64),
        "half": rng.normal(size=(rows, 5)).astype(np.float16),
        "steps": rng.integers(-(2**15), 2**15, size=(rows, 3)).astype(np.int16),
        "normal": rng.integers(-128, 128, size=(rows, 3)).astype(np.int8),
        "count": rng.integers(0, 2**16, size=rows).astype(np.uint16),
        "votes": rng.integers(0, 256, size=(rows, 4, 4)).astype(np.uint8),
    }


def make_changes(columns: Columns, rows: list[int], **more: Any) -> AtlasChanges:
    return AtlasChanges({"charts": TableChange(columns, np.array(rows, dtype=np.int64))}, **more)


def assert_same(state: AtlasState, columns: Columns) -> None:
    assert state.tables["charts"].keys() == columns.keys()
    for name, values in columns.items():
        stored = state.tables["charts"][name]
        assert stored.dtype == values.dtype
        assert stored.shape == values.shape
        assert stored.tobytes() == values.tobytes(), name


def test_every_revision_reads_back_exactly(tmp_path: Path) -> None:
    columns = make_columns(300, 0)
    columns["weights"][0, 0, :3] = [-0.0, np.nan, np.inf]
    columns["half"][0] = [-0.0, np.nan, -np.inf, 6e-8, 65504]
    versions = []
    hidden = np.arange(12, dtype=np.float64).reshape(3, 4)
    with_scalar = {"hidden": hidden, "scale": np.float64(0.25), "empty": np.zeros((0, 3), np.float32)}
    store = AtlasStore.create(tmp_path / "atlas")
    assert store.latest_revision == 0
    everything = list(range(300))
    metadata = {"config": {"radius_m": 0.1, "none": None}, "big": 2**60 + 1}
    assert (
        store.commit(make_changes(columns, everything, arrays=with_scalar, metadata=metadata), {"next": 3})
        == 1
    )
    versions.append({k: v.copy() for k, v in columns.items()})
    columns["weights"][[7, 200]] += 1
    assert store.commit(make_changes(columns, [7, 200], metadata={"n": 2}), {"next": 4}) == 2
    versions.append({k: v.copy() for k, v in columns.items()})
    columns = {k: np.concatenate([v, v[:77]]) for k, v in columns.items()}
    assert (
        store.commit(make_changes(columns, list(range(300, 377))), {"next": 5}, "grown", frames=5, charts=377)
        == 3
    )
    versions.append(columns)
    store.close()
    for reader in (AtlasStore.open(tmp_path / "atlas"), AtlasStore.open(tmp_path / "atlas", read_only=True)):
        assert reader.latest_revision == 3
        for revision, expected in enumerate(versions, 1):
            stored = reader.read(revision)
            assert_same(stored.state, expected)
            assert stored.revision == revision
            assert stored.log_position == {"next": revision + 2}
            assert stored.state.arrays["hidden"].tobytes() == hidden.tobytes()
            assert stored.state.arrays["scale"] == 0.25
            assert stored.state.arrays["empty"].shape == (0, 3)
        assert reader.read(1).state.metadata == metadata
        assert reader.read(None).revision == 3
        last = reader.revisions()[-1]
        assert (last.revision, last.frames, last.charts, last.message) == (3, 5, 377, "grown")
        assert abs(datetime.datetime.now(datetime.UTC) - last.created) < datetime.timedelta(hours=1)


def chunk_files(path: Path) -> set[Path]:
    return set((path / "icechunk" / "chunks").iterdir())


def test_a_commit_writes_only_touched_pages(tmp_path: Path) -> None:
    columns = {"weights": make_columns(1000, 1)["weights"]}  # 960 bytes a row: 256 rows a page, 4 pages
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    store.commit(make_changes(columns, list(range(1000))), {})
    assert len(chunk_files(path)) == 4
    before = chunk_files(path)
    columns["weights"][[3, 4, 900]] = 5
    store.commit(make_changes(columns, [3, 4, 900]), {})
    assert len(chunk_files(path) - before) == 2
    before = chunk_files(path)
    store.commit(make_changes(columns, []), {})
    assert chunk_files(path) == before
    assert_same(store.read().state, columns)


def test_rows_not_listed_keep_their_stored_bits(tmp_path: Path) -> None:
    store = AtlasStore.create(tmp_path / "atlas")
    columns = make_columns(600, 2)
    store.commit(make_changes(columns, list(range(600))), {})
    old = columns["weights"].copy()
    columns["weights"][500] = 1  # changed in memory, not listed, in a page of its own
    store.commit(make_changes(columns, [0]), {})
    assert store.read().state.tables["charts"]["weights"].tobytes() == old.tobytes()


def test_an_unchanged_array_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    hidden = np.random.default_rng(0).normal(size=(100, 100))
    store.commit(AtlasChanges({}, {"hidden": hidden}), {})
    before = chunk_files(path)
    store.commit(AtlasChanges({}, {"hidden": hidden.copy()}), {})
    assert chunk_files(path) == before
    store.commit(AtlasChanges({}, {"hidden": hidden.T}), {})
    assert store.read(3).state.arrays["hidden"].tobytes() == np.ascontiguousarray(hidden.T).tobytes()
    assert store.read(2).state.arrays["hidden"].tobytes() == hidden.tobytes()


def test_a_column_may_come_go_and_change_its_type(tmp_path: Path) -> None:
    store = AtlasStore.create(tmp_path / "atlas")
    first = {"a": np.arange(50), "b": np.ones((50, 2), np.float32)}
    second = {"a": np.arange(60, dtype=np.float32), "c": np.zeros(60, np.int8)}
    store.commit(make_changes(first, list(range(50))), {})
    store.commit(make_changes(second, list(range(50, 60))), {})
    assert_same(store.read(1).state, first)
    assert_same(store.read(2).state, second)


def test_a_failed_commit_leaves_the_revision_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    columns = make_columns(100, 3)
    store.commit(make_changes(columns, list(range(100))), {"next": 1})

    def refuse(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamdgp.store.atlas_store.sync_filesystem", refuse)
    with pytest.raises(StorageError, match=r"revision 2.*No space left"):
        store.commit(make_changes(columns, [0]), {"next": 2})
    monkeypatch.undo()
    with pytest.raises(StorageError, match="one that failed"):
        store.commit(make_changes(columns, [0]), {"next": 2})
    store.close()
    assert AtlasStore.open(path).latest_revision in (1, 2)


def test_damage_is_named_and_never_read_silently(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    columns = {"weights": make_columns(300, 4)["weights"]}
    store.commit(make_changes(columns, list(range(300))), {})
    for chunk in chunk_files(path):
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 1
        chunk.write_bytes(bytes(data))
    with pytest.raises(StorageError, match="table charts, column weights"):
        store.read()


def test_unknown_revisions_and_missing_stores(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="an atlas in"):
        AtlasStore.open(tmp_path / "nothing")
    store = AtlasStore.create(tmp_path / "atlas")
    with pytest.raises(NotFoundError, match="none yet"):
        store.read()
    store.commit(make_changes(make_columns(1, 0), [0]), {})
    with pytest.raises(NotFoundError, match="a revision from 1 to 1; got 2"):
        store.read(2)
    store.close()
    with pytest.raises(AlreadyExistsError):
        AtlasStore.create(tmp_path / "atlas")


def test_one_writer_many_readers(tmp_path: Path) -> None:
    store = AtlasStore.create(tmp_path / "atlas")
    store.commit(make_changes(make_columns(1, 0), [0]), {})
    with pytest.raises(StorageError, match=r"one writer for .*lock held by process \d+"):
        AtlasStore.open(tmp_path / "atlas")
    reader = AtlasStore.open(tmp_path / "atlas", read_only=True)
    with pytest.raises(StorageError, match="opened for writing"):
        reader.commit(make_changes(make_columns(1, 0), [0]), {})
    store.close()
    AtlasStore.open(tmp_path / "atlas").close()


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    store.commit(make_changes(make_columns(1, 0), [0]), {})
    store.close()
    leftover = path / "icechunk" / "chunks" / "ABCDEF#1"
    leftover.touch()
    AtlasStore.open(path, read_only=True)
    assert leftover.exists()
    AtlasStore.open(path)
    assert not leftover.exists()


def test_dropped_revisions_are_gone_and_the_rest_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    versions = []
    columns = make_columns(3000, 5)
    for revision in range(1, 7):
        columns["weights"] = columns["weights"] + 1
        store.commit(make_changes(columns, list(range(3000))), {"next": revision})
        versions.append({k: v.copy() for k, v in columns.items()})

    def stored_bytes() -> int:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    before = stored_bytes()
    assert store.drop_before(1) == 0
    freed = store.drop_before(5)
    assert freed > before / 2
    assert stored_bytes() < before / 2
    for _ in range(2):
        assert [info.revision for info in store.revisions()] == [5, 6]
        for revision in (5, 6):
            assert_same(store.read(revision).state, versions[revision - 1])
        with pytest.raises(NotFoundError, match="a revision from 5 to 6; got 4"):
            store.read(4)
        store.close()
        store = AtlasStore.open(path)
    columns["weights"][7] += 1
    assert store.commit(make_changes(columns, [7]), {"next": 7}) == 7
    assert_same(store.read().state, columns)
    assert_same(store.read(5).state, versions[4])


def test_a_page_whose_rows_are_the_same_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    columns = {name: make_columns(1000, 6)[name] for name in ("weights", "key")}
    store.commit(make_changes(columns, list(range(1000))), {})
    before = chunk_files(path)
    columns["key"][999] += 1
    store.commit(make_changes(columns, list(range(1000))), {})
    assert len(chunk_files(path) - before) == 1
    assert_same(store.read().state, columns)


def test_a_staged_commit_is_of_the_moment_it_was_staged(tmp_path: Path) -> None:
    """The tables may change while it is written, and only the next commit shows that."""
    columns = make_columns(300, 0)
    first = {name: values.copy() for name, values in columns.items()}
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        metadata = {"list": [1, 2]}
        staged = store.stage(make_changes(columns, list(range(300)), metadata=metadata), {"next": 1})
        columns["weights"] += 1
        metadata["list"].append(3)
        assert store.latest_revision == 0
        assert store.write(staged) == 1
        with pytest.raises(StorageError, match="revision 1"):
            store.write(staged)
        assert_same(store.read().state, first)
        assert store.read().state.metadata == {"list": [1, 2]}
        assert store.commit(make_changes(columns, list(range(300))), {"next": 2}) == 2
        assert_same(store.read().state, columns)
        assert_same(store.read(1).state, first)


def test_falling_back_gives_the_newest_revision_up(tmp_path: Path) -> None:
    versions = [make_columns(300, seed) for seed in range(4)]
    everything = list(range(300))
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        with pytest.raises(StorageError, match="a revision before the newest"):
            store.fall_back()
        for number, columns in enumerate(versions[:3]):
            store.commit(make_changes(columns, everything), {"next": number})
        assert store.fall_back() == 2
        assert_same(store.read().state, versions[1])
        with pytest.raises(NotFoundError):
            store.read(3)
    with closing(AtlasStore.open(path)) as store:
        assert store.latest_revision == 2
        # Nothing of what was given up may be taken for stored: the same rows again, then others.
        assert store.commit(make_changes(versions[2], everything), {"next": 5}) == 3
        assert store.fall_back() == 2
        assert store.commit(make_changes(versions[2], [1]), {"next": 6}) == 3
        mixed = store.read().state.tables["charts"]
        np.testing.assert_array_equal(mixed["key"][1], versions[2]["key"][1])
        assert store.commit(make_changes(versions[3], everything), {"next": 7}) == 4
        assert_same(store.read().state, versions[3])
        assert_same(store.read(2).state, versions[1])


def test_a_revision_is_read_in_parts_under_a_budget(tmp_path: Path) -> None:
    columns = make_columns(60_000, 5)
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        store.commit(make_changes(columns, list(range(60_000))), {"next": 1}, "", frames=1, charts=60_000)
        budget = MemoryBudget(16 << 20)
        state = store.read(memory=budget.memory(tmp_path)).state
        assert sum(values.nbytes for values in columns.values()) > 3 * budget.max_bytes
        assert budget.resident_bytes() <= budget.max_bytes
        assert_same(state, columns)
        assert_same(store.read().state, columns)
