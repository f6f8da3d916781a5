"""Tags on real stores: what has a name outlives every clearing, names come and go, none is half there."""

from __future__ import annotations

import datetime
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.errors import AlreadyExistsError, NotFoundError, StorageError
from streamdgp.store import AtlasStore, RevisionInfo
from streamdgp.store._clearing import keep_snapshots
from streamdgp.store._clock import wait_until_after
from streamdgp.store._retention import count_by_size, oldest_within
from streamdgp.store._tip import write_synced


def commit(store: AtlasStore) -> int:
    """A revision whose content is its number."""
    number = store.latest_revision + 1
    rows = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32)
    rows[:, 0] = number
    return store.commit(AtlasChanges({"charts": TableChange({"weights": rows}, np.arange(400))}), {"next": 0})


def content(store: AtlasStore, revision: int) -> float:
    weights = store.read(revision).state.tables["charts"]["weights"]
    assert (weights[:, 0] == weights[0, 0]).all()
    return float(weights[0, 0])


def file_count(path: Path) -> int:
    return sum(file.is_file() for file in path.rglob("*"))


def numbers(revisions: list[RevisionInfo]) -> list[int]:
    return [info.revision for info in revisions]


def test_tagged_revisions_outlive_every_clearing(tmp_path: Path) -> None:
    """Tags deep in the past, between others, and on revisions that are cleared one by one."""
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    for _ in range(40):
        revision = commit(store)
        if revision in (3, 4, 17, 30):
            assert store.tag(f"at-{revision}").tags == (f"at-{revision}",)
        if revision > 5:
            store.drop_before(revision - 4)
    assert store.tag("twice", 17).tags == ("at-17", "twice")
    for _ in range(2):
        assert numbers(store.revisions()) == [36, 37, 38, 39, 40]
        assert numbers(store.tagged_revisions()) == [3, 4, 17, 30]
        assert store.tags() == {"at-17": 17, "at-3": 3, "at-30": 30, "at-4": 4, "twice": 17}
        for revision in (3, 4, 17, 30, 36, 40):
            assert content(store, revision) == revision
        with pytest.raises(NotFoundError, match=r"from 36 to 40 or one of the tagged ones \(3, 4, 17, 30\)"):
            store.read(31)
        store.close()
        store = AtlasStore.open(path)
    # Only what is kept is on disk: 9 revisions of a chunk, a manifest and so on.
    assert len(list((path / "icechunk" / "chunks").iterdir())) == 9
    assert len(list((path / "icechunk" / "snapshots").iterdir())) == 10
    repository = store._repository
    for reader in (repository.readonly_session("tag.at-17"), repository.readonly_session(branch="tag.twice")):
        assert zarr.open_group(reader.store, mode="r").attrs["revision"] == 17
    assert store.untag("at-17") == 17
    assert content(store, 17) == 17  # it has another name
    store.untag("twice")
    with pytest.raises(NotFoundError):
        store.read(17)
    before = file_count(path)
    store.drop_before(37)
    assert file_count(path) < before - 3
    assert numbers(store.tagged_revisions()) == [3, 4, 30]
    store.close()


def test_a_long_session_does_not_grow_the_store(tmp_path: Path) -> None:
    """The number of files after many clearings is what it was after the first ones."""
    counts = []
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        commit(store)
        store.tag("first")
        for _ in range(12):
            for _ in range(5):
                commit(store)
            store.drop_before(store.latest_revision - 4)
            counts.append(file_count(tmp_path / "atlas"))
    assert len(set(counts[1:])) == 1, counts


def test_names_are_given_once_and_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        with pytest.raises(NotFoundError, match="none yet"):
            store.tag("early")
        commit(store)
        commit(store)
        store.tag("name", 1)
        assert store.tag("name", 1).revision == 1  # a repetition changes nothing
        with pytest.raises(AlreadyExistsError, match="no tag name; got one of revision 1"):
            store.tag("name", 2)
        with pytest.raises(NotFoundError, match="from 1 to 2; got 7"):
            store.tag("other", 7)
        with pytest.raises(NotFoundError, match=r"a tag of .*there are: name.*got other"):
            store.untag("other")
        assert store.untag("name") == 1
        assert store.tag("name", 2).revision == 2
    with closing(AtlasStore.open(path, read_only=True)) as reader:
        assert reader.tags() == {"name": 2}
        with pytest.raises(StorageError, match="opened for writing"):
            reader.tag("other")


def test_a_tag_goes_with_a_revision_that_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        for _ in range(3):
            commit(store)
        store.tag("broken", 3)
        store.tag("whole", 2)
        store.fall_back()
        assert store.tags() == {"whole": 2}
        commit(store)
        assert store.tag("broken").revision == 3
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == {"broken": 3, "whole": 2}
        # As when a cut of the power takes back that the tag went, and nothing else of giving a revision up.
        before = store.revisions()[-2]
        store._repository.reset_branch("main", before.snapshot_id)
        write_synced(store.path, before.revision, before.snapshot_id)
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == {"whole": 2}
        commit(store)
        assert store.tag("broken").revision == 3


def test_a_power_cut_leaves_no_half_tag(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        commit(store)
        store.tag("whole")
        noted = (path / "TAGS").read_bytes()
        store.tag("torn")
    (path / "TAGS").write_bytes(noted)  # nobody was told yet
    (path / "icechunk" / "refs" / "branch.tag.torn" / "ref.json").write_bytes(b"")
    with closing(AtlasStore.open(path, read_only=True)) as reader:
        assert reader.tags() == {"whole": 1}
    with closing(AtlasStore.open(path)) as store:
        assert store.tags() == {"whole": 1}
        assert store.tag("torn").revision == 1
        commit(store)
        assert store.drop_before(2) == 0 or numbers(store.tagged_revisions()) == [1]


def test_a_tagged_snapshot_that_clearing_left_empty_is_put_back(tmp_path: Path) -> None:
    """Expiry writes the snapshots of tags anew too; a power cut then leaves names without content."""
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        for _ in range(6):
            commit(store)
        tagged = store.tag("old", 2).snapshot_id
    snapshots = path / "icechunk" / "snapshots"
    keep_snapshots(path, snapshots)
    (snapshots / tagged).write_bytes(b"")
    with closing(AtlasStore.open(path)) as store:
        assert content(store, 2) == 2
        store.drop_before(5)
        assert numbers(store.tagged_revisions()) == [2]
        assert content(store, 2) == 2


def test_a_damaged_revision_stands_in_the_way_of_clearing_and_of_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept must be read to know what may be deleted: nothing is then, and the store goes on."""
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        commit(store)
        before = set((path / "icechunk" / "manifests").iterdir())
        commit(store)
        store.tag("old")
        only_there = set((path / "icechunk" / "manifests").iterdir()) - before
        for _ in range(4):
            commit(store)
    for manifest in only_there:
        manifest.write_bytes(manifest.read_bytes()[:40])
    with closing(AtlasStore.open(path)) as store:
        commit(store)
        assert store.drop_before(6) == 0
        assert "cannot be deleted" in caplog.text
        assert commit(store) == 8
        assert numbers(store.revisions()) == [6, 7, 8]
    with closing(AtlasStore.open(path)) as store:
        assert [content(store, revision) for revision in (6, 7, 8)] == [6, 7, 8]
        with pytest.raises(StorageError):
            store.read(2)


def test_objects_from_the_future_are_collected(tmp_path: Path) -> None:
    """Files written while the clock was ahead do not stay for ever."""
    path = tmp_path / "atlas"
    with closing(AtlasStore.create(path)) as store:
        for _ in range(3):
            commit(store)
        ahead_s = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC).timestamp()
        for chunk in (path / "icechunk" / "chunks").iterdir():
            os.utime(chunk, (ahead_s, ahead_s))
        store.drop_before(3)
        assert len(list((path / "icechunk" / "chunks").iterdir())) == 1


def history(*pauses_s: float | None, created: list[float] | None = None) -> list[RevisionInfo]:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return [
        RevisionInfo(
            *(number, start + datetime.timedelta(seconds=(created or [0.0] * 99)[number - 1])),
            *(0, 0, "", "revision"),
            pause_s=pause_s,
        )
        for number, pause_s in enumerate(pauses_s, 1)
    ]


@pytest.mark.parametrize(
    ("keep_for_s", "since_newest_s", "oldest"),
    [(0, 1, 5), (5, 0, 4), (5, 6, 5), (10, 0, 3), (20, 0, 2), (24, 5, 3), (1000, 0, 1)],
)
def test_age_in_pauses(keep_for_s: float, since_newest_s: float, oldest: int) -> None:
    """Revision 4 was the newest one until the fifth came, 3 until 10 s before that, and so on."""
    assert oldest_within(history(None, 10, 10, 10, 10), keep_for_s, since_newest_s) == oldest


def test_a_clock_that_is_set_makes_nothing_younger() -> None:
    """Without notes of pauses the calendar is asked; a step back counts as no time at all."""
    jumping = history(*[None] * 5, created=[0, 100, -1e6, -1e6 + 100, -1e6 + 200])
    assert oldest_within(jumping, 150, 0) == 3
    assert oldest_within(jumping, 250, 0) == 1


@pytest.mark.parametrize(
    ("revisions", "written_mb", "column_mb", "count"),
    [
        (300, 1, 10, 100),  # 99 MB of history: small scenes keep a hundred
        (300, 10, 100, 27),  # 256 MiB, though the map is smaller
        (300, 10, 500, 51),  # as much as the map
        (300, 400, 500, 20),  # too much, but fewer are never kept
        (300, 10, 5000, 100),
        (3, 1, 1, 20),
    ],
)
def test_history_takes_no_more_room_than_the_map(
    revisions: int, written_mb: int, column_mb: int, count: int
) -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    infos = [
        RevisionInfo(
            *(number, start, 0, 0, "", ""), column_bytes=column_mb * 10**6, written_bytes=written_mb * 10**6
        )
        for number in range(1, revisions + 1)
    ]
    assert count_by_size(infos) == count


def test_commits_note_what_they_wrote(tmp_path: Path) -> None:
    columns = {"key": np.arange(40_000), "weight": np.zeros((40_000, 4), np.float32)}
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        store.commit(AtlasChanges({"charts": TableChange(columns, np.arange(40_000))}), {"next": 1})
        columns["weight"][7] = 1
        store.commit(AtlasChanges({"charts": TableChange(columns, np.array([7]))}), {"next": 2})
        noted = store.revisions()
    assert [info.column_bytes for info in noted] == [40_000 * (8 + 16)] * 2
    assert noted[0].written_bytes == noted[0].column_bytes
    assert 16 <= noted[1].written_bytes < 40_000 * 16 / 2, "one page of one column"
    with closing(AtlasStore.open(tmp_path / "atlas")) as store:
        again = store.revisions()
    facts = [(info.column_bytes, info.written_bytes) for info in noted]
    assert [(info.column_bytes, info.written_bytes) for info in again] == facts


def test_young_revisions_stay(tmp_path: Path) -> None:
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        for _ in range(6):
            commit(store)
        store.keep_for_s = 3600
        assert store.drop_before(5) == 0
        assert numbers(store.revisions()) == [1, 2, 3, 4, 5, 6]
        store.keep_for_s = 1e-6
        assert store.drop_before(5) > 0
        assert numbers(store.revisions()) == [5, 6]


def test_a_clock_that_was_set_back_delays_commits_or_says_so() -> None:
    clock = [datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)]
    moment = clock[0] + datetime.timedelta(seconds=20)

    def sleep(duration_s: float) -> None:
        clock[0] += datetime.timedelta(seconds=duration_s)

    wait_until_after(moment, now=lambda: clock[0], sleep=sleep)
    assert clock[0] > moment
    clock[0] -= datetime.timedelta(days=1)
    with pytest.raises(StorageError, match=r"a clock past 2026-05-01 12:00:20 UTC.*got 2026-04-30"):
        wait_until_after(moment, now=lambda: clock[0], sleep=sleep)
