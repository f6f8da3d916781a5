"""A power cut between a commit and its sync may leave names without data: the store opens all the same."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.errors import StorageError
from streamdgp.store import AtlasStore, atlas_store


def changes(value: float) -> AtlasChanges:
    rows = np.random.default_rng(int(value)).normal(size=(400, 30)).astype(np.float32) + value
    return AtlasChanges({"charts": TableChange({"weights": rows}, np.arange(400))})


def weights(store: AtlasStore) -> np.ndarray:
    return store.read().state.tables["charts"]["weights"]


@pytest.fixture
def torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """An atlas of three revisions, and a fourth that was written and not synced; the fourth's files."""
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        for number in range(3):
            store.commit(changes(number), {"next": number})
        before = {file for file in path.rglob("*") if file.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(atlas_store, "write_synced", lambda *_: None)
            store.commit(changes(9), {"next": 9})
    after = {file for file in path.rglob("*") if file.is_file()}
    return path, [*(after - before), path / "icechunk" / "refs" / "branch.main" / "ref.json"]


@pytest.mark.parametrize("kinds", [{"snapshots"}, {"branch.main"}, {"snapshots", "manifests", "chunks"}])
def test_it_goes_back_to_what_was_synced(torn: tuple[Path, list[Path]], kinds: set[str]) -> None:
    path, files = torn
    emptied = [file for file in files if file.parent.name in kinds]
    assert len(emptied) >= len(kinds)
    for file in emptied:
        file.write_bytes(b"")
    with closing(AtlasStore.open(path)) as store:
        assert store.latest_revision == 3
        np.testing.assert_array_equal(weights(store), weights_of(2))
        assert store.commit(changes(5), {"next": 5}) == 4
    with closing(AtlasStore.open(path)) as store:
        np.testing.assert_array_equal(weights(store), weights_of(5))


@pytest.mark.parametrize("kind", ["manifests", "chunks"])
def test_data_that_is_gone_is_an_error_and_the_revision_before_is_there(
    torn: tuple[Path, list[Path]], kind: str
) -> None:
    path, files = torn
    for file in (file for file in files if file.parent.name == kind):
        file.write_bytes(b"")
    with closing(AtlasStore.open(path)) as store:
        assert store.latest_revision == 4
        with pytest.raises(StorageError, match="revision 4, table charts, column weights"):
            store.read()
        assert store.fall_back() == 3
        np.testing.assert_array_equal(weights(store), weights_of(2))


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_store_without_a_note_gets_one(torn: tuple[Path, list[Path]], content: bytes | None) -> None:
    path, _ = torn
    note = path / "SYNCED"
    note.unlink()
    if content is not None:
        note.write_bytes(content)
    with closing(AtlasStore.open(path, read_only=True)) as store:
        assert store.latest_revision == 4
    assert not note.exists() or note.read_bytes() == content
    with closing(AtlasStore.open(path)) as store:
        newest = store.revisions()[-1]
    assert json.loads(note.read_bytes()) == {"revision": 4, "snapshot": newest.snapshot_id}


def test_a_reader_does_not_mend(torn: tuple[Path, list[Path]]) -> None:
    path, files = torn
    for file in (file for file in files if file.parent.name == "snapshots"):
        file.write_bytes(b"")
    with pytest.raises(StorageError):
        AtlasStore.open(path, read_only=True)


def test_a_repository_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    (path / "icechunk.new" / "refs").mkdir(parents=True)
    (path / "icechunk.new" / "refs" / "ref.json").write_bytes(b"")
    with closing(AtlasStore.create(path)) as store:
        assert store.commit(changes(1), {"next": 1}) == 1
    assert not (path / "icechunk.new").exists()


def weights_of(value: float) -> np.ndarray:
    return changes(value).tables["charts"].columns["weights"]
