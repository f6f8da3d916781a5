"""A clock that is set back or forward: commits, history and clearing go on as if nothing had happened."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.errors import NotFoundError, StorageError
from streamdgp.store import AtlasStore
from streamdgp.store._dating import date_back
from tests.store.clock import written_ahead

HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)


def commit(store: AtlasStore, *numbers: int) -> None:
    """Revisions, each of a page that holds nothing but the revision's number."""
    for number in numbers:
        change = TableChange({"number": np.full(100, number)}, np.arange(100))
        assert store.commit(AtlasChanges({"charts": change}), {"next": number}) == number


def assert_holds(store: AtlasStore, first: int, last: int) -> None:
    assert [info.revision for info in store.revisions()] == list(range(first, last + 1))
    for number in range(first, last + 1):
        assert set(store.read(number).state.tables["charts"]["number"]) == {number}
    with pytest.raises(NotFoundError):
        store.read(first - 1)


def objects(atlas: Path) -> int:
    return sum(path.is_file() for path in atlas.rglob("*"))


@given(st.lists(st.integers(0, 1000), unique=True).map(sorted), st.integers(0, 1000))
def test_times_are_in_order_and_past_and_only_those_of_the_future_change(times: list[int], now: int) -> None:
    dated = date_back(times, now)
    assert all(time < now for time in dated)
    assert all(before < after for before, after in itertools.pairwise(dated))
    kept = next((i for i, (old, new) in enumerate(zip(times, dated, strict=True)) if old != new), len(times))
    assert dated[kept:] == list(range(now - len(times) + kept, now))


@pytest.mark.parametrize("ahead", [HOUR, DAY, -HOUR, -DAY], ids=["1h", "1d", "-1h", "-1d"])
def test_an_atlas_of_another_time_is_gone_on_with_and_cleared(
    tmp_path: Path, ahead: datetime.timedelta
) -> None:
    for name, moved in (("moved", ahead), ("same", datetime.timedelta(0))):
        path = tmp_path / name
        store = AtlasStore.create(path)
        commit(store, 1, 2, 3, 4)
        store.close()
        written_ahead(path, moved)
        store = AtlasStore.open(path)
        commit(store, 5, 6)
        assert_holds(store, 1, 6)
        store.drop_before(3)
        assert_holds(store, 3, 6)
        commit(store, 7)
        store.drop_before(6)
        store.close()
        store = AtlasStore.open(path)
        assert_holds(store, 6, 7)
        store.close()
    assert objects(tmp_path / "moved") == objects(tmp_path / "same")  # what was cleared away is gone


def test_clearing_is_right_before_the_first_commit_after_the_clock_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    store = AtlasStore.create(path)
    commit(store, 1, 2, 3, 4)
    store.close()
    written_ahead(path, HOUR)
    store = AtlasStore.open(path)
    before = objects(path)
    store.drop_before(4)
    assert objects(path) < before
    assert_holds(store, 4, 4)
    commit(store, 5)
    store.close()
    assert_holds(AtlasStore.open(path), 4, 5)


def test_an_empty_atlas_made_ahead_of_time(tmp_path: Path) -> None:
    AtlasStore.create(tmp_path / "atlas").close()
    written_ahead(tmp_path / "atlas", DAY)
    store = AtlasStore.open(tmp_path / "atlas")
    commit(store, 1)
    assert_holds(store, 1, 1)


def opened_behind(path: Path) -> AtlasStore:
    """An atlas of one revision, opened when the clock stands an hour before that."""
    store = AtlasStore.create(path)
    commit(store, 1)
    store.close()
    written_ahead(path, HOUR)
    return AtlasStore.open(path)


def test_a_snapshot_of_an_unknown_format_is_left_alone_and_the_clock_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "atlas"
    store = opened_behind(path)
    before = {file: file.read_bytes() for file in path.rglob("snapshots/*")}
    monkeypatch.setattr("streamdgp.store._dating._MAGIC", b"another")
    with pytest.raises(StorageError, match="Set the clock right") as caught:
        commit(store, 2)
    assert "3600 s before it" in str(caught.value)
    assert {file: file.read_bytes() for file in path.rglob("snapshots/*")} == before


def test_a_commit_that_icechunk_refuses_for_its_time_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back between the look at it and the commit."""
    path = tmp_path / "atlas"
    store = opened_behind(path)
    follow, calls = AtlasStore._follow_clock, list[bool]()

    def late(self: AtlasStore) -> bool:
        calls.append(follow(self) if calls else False)
        return calls[-1]

    monkeypatch.setattr(AtlasStore, "_follow_clock", late)
    commit(store, 2)
    assert calls == [False, True]
    assert_holds(store, 1, 2)
