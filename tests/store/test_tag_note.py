"""Tags whose files are lost, damaged or exchanged: noticed, put right, and what they keep is not deleted."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.errors import StorageError
from streamdgp.store import AtlasStore

TAGS = {"early": 2, "late": 4}


def commit(store: AtlasStore) -> None:
    rows = np.full((400, 30), store.latest_revision + 1, np.float32)
    store.commit(AtlasChanges({"charts": TableChange({"weights": rows}, np.arange(400))}), {"next": 0})


def first_values(store: AtlasStore, revision: int) -> set[float]:
    return set(store.read(revision).state.tables["charts"]["weights"].ravel().tolist())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with revisions 4 to 6, and 2 for its tag's sake."""
    path = tmp_path_factory.mktemp("made") / "atlas"
    with closing(AtlasStore.create(path)) as store:
        for _ in range(6):
            commit(store)
        for name, revision in TAGS.items():
            store.tag(name, revision)
        store.drop_before(4)
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "atlas"))


def file_of(path: Path, name: str) -> Path:
    return path / "icechunk" / "refs" / f"branch.tag.{name}" / "ref.json"


def spoil(path: Path, way: str) -> None:
    early, late = file_of(path, "early"), file_of(path, "late")
    match way:
        case "gone":
            early.unlink()
        case "folder gone":
            early.unlink()
            early.parent.rmdir()
        case "empty":
            early.write_bytes(b"")
        case "zeros":
            early.write_bytes(bytes(early.stat().st_size))
        case "of no snapshot":
            early.write_text(json.dumps({"snapshot": "0" * 20}))
        case "exchanged":
            content = early.read_bytes()
            early.write_bytes(late.read_bytes())
            late.write_bytes(content)


WAYS = ("gone", "folder gone", "empty", "zeros", "of no snapshot", "exchanged")


@pytest.mark.parametrize("way", WAYS)
def test_a_tag_is_put_right_at_the_next_start(path: Path, way: str) -> None:
    spoil(path, way)
    with pytest.raises(StorageError, match=r"tag early in .* as it was given; .*, or none\. Run"):
        AtlasStore.open(path, read_only=True)
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == TAGS
        commit(store)
        store.drop_before(6)
        for revision in TAGS.values():
            assert first_values(store, revision) == {revision}
    with closing(AtlasStore.open(path, read_only=True)) as reader:
        assert reader.tags() == TAGS


@pytest.mark.parametrize("way", WAYS)
def test_clearing_deletes_nothing_that_a_tag_kept(path: Path, way: str) -> None:
    """Also when the file went while the store was open."""
    with closing(AtlasStore.open(path)) as store:
        spoil(path, way)
        commit(store)
        store.drop_before(6)
        for revision in TAGS.values():
            assert first_values(store, revision) == {revision}
    with closing(AtlasStore.open(path, read_only=True)) as reader:
        assert reader.tags() == TAGS


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"tags": {"early": "x"}, "sha256": "y"}'])
def test_a_note_that_is_lost_is_made_again(path: Path, content: bytes | None) -> None:
    note = path / "TAGS"
    wanted = note.read_bytes()
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    with closing(AtlasStore.open(path, read_only=True)) as reader:
        assert reader.tags() == TAGS
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == TAGS
    assert note.read_bytes() == wanted


def test_a_revision_that_only_its_damaged_tag_keeps_is_an_error(path: Path) -> None:
    """And the message says how to go on without it."""
    snapshot_id = json.loads(file_of(path, "early").read_bytes())["snapshot"]
    (path / "icechunk" / "snapshots" / snapshot_id).unlink()
    for read_only in (True, False):
        with pytest.raises(StorageError, match=r"the snapshot of tag early .* give the tag up") as raised:
            AtlasStore.open(path, read_only=read_only)
        assert str(path / "TAGS") in str(raised.value)
        assert str(file_of(path, "early").parent) in str(raised.value)
    (path / "TAGS").unlink()
    file_of(path, "early").unlink()
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == {"late": 4}
        commit(store)
        store.drop_before(5)
        assert first_values(store, 4) == {4}


def test_a_tag_that_is_taken_away_does_not_come_back(path: Path) -> None:
    with closing(AtlasStore.open(path)) as store:
        store.untag("early")
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == {"late": 4}
        assert not file_of(path, "early").exists()
