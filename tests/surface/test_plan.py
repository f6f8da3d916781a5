"""Plans of tiles: those of a slow reference, whatever the boxes, and the same in slabs as at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.surface import plan as plan_module
from streamdgp.surface.plan import TilePlan, plan_tiles, tiles_of

Ints = npt.NDArray[np.int64]
Index = tuple[int, int, int]


def _boxes(seed: int, count: int = 60) -> tuple[Ints, Ints, Ints]:
    """Boxes of up to 4 x 3 x 2 tiles around the origin, some of them none, and versions of charts."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-8, 8, (count, 3))
    high = low + rng.integers(-1, (4, 3, 2), (count, 3))
    return low, high, rng.integers(1, 100, count)


def _reference(low: Ints, high: Ints) -> dict[Index, list[int]]:
    """Tile to charts, by loops."""
    members: dict[Index, list[int]] = {}
    for chart, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        for i in range(a[0], b[0] + 1):
            for j in range(a[1], b[1] + 1):
                for k in range(a[2], b[2] + 1):
                    members.setdefault((i, j, k), []).append(chart)
    return members


def _as_lists(plans: list[TilePlan]) -> list[tuple[Index, list[int], int]]:
    return [(p.index, p.members.tolist(), p.signature) for p in plans]


@pytest.mark.parametrize("seed", range(12))
def test_plans_are_those_of_the_reference(seed: int) -> None:
    low, high, version = _boxes(seed)
    wanted = _reference(low, high)
    plans = list(plan_tiles(low, high, np.arange(len(low)), version))
    assert [p.index for p in plans] == sorted(wanted), "every tile once, in lattice order"
    for p in plans:
        assert p.members.tolist() == wanted[p.index]
    assert [tuple(t) for t in tiles_of(low, high).tolist()] == sorted(wanted)


@pytest.mark.parametrize("far", [0, 1 << 20, 1 << 22])
def test_distinct_tiles_however_far_apart(far: int) -> None:
    """Also where all places of their bounding box have no numbers."""
    low, high, _ = _boxes(3)
    low[::2] += far
    high[::2] += far
    assert [tuple(t) for t in tiles_of(low, high).tolist()] == sorted(_reference(low, high))


@pytest.mark.parametrize("seed", range(12))
def test_only_some_tiles(seed: int) -> None:
    """Tiles that exist and tiles that do not, given twice and in no order: as in the whole plan."""
    low, high, version = _boxes(seed)
    whole = _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version)))
    rng = np.random.default_rng(100 + seed)
    count = (1, 5, 40)[seed % 3]
    exist = np.array([index for index, _, _ in whole])[rng.integers(0, len(whole), count)]
    only = rng.permutation(np.concatenate([exist, rng.integers(-12, 12, (count, 3))]))
    asked = {tuple(t) for t in only.tolist()}
    wanted = [plan for plan in whole if plan[0] in asked]
    assert wanted
    assert _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version, only))) == wanted


@pytest.mark.parametrize("pairs", [1, 7, 100, 1 << 18])
@pytest.mark.parametrize("seed", range(4))
def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch, seed: int, pairs: int) -> None:
    low, high, version = _boxes(seed)
    only = np.random.default_rng(seed).integers(-8, 8, (200, 3))
    whole = _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version)))
    some = _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version, only)))
    assert some
    monkeypatch.setattr(plan_module, "_PAIRS_AT_ONCE", pairs)
    there = (high >= low).all(1)
    slabs = list(plan_module._slabs(low[there], high[there]))
    assert len(slabs) > 3 or pairs >= 100, "one slab: nothing was tested"
    assert _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version))) == whole
    assert _as_lists(list(plan_tiles(low, high, np.arange(len(low)), version, only))) == some


def test_a_signature_follows_members_and_versions() -> None:
    low, high, version = _boxes(0)
    before = {p.index: p for p in plan_tiles(low, high, np.arange(len(low)), version)}
    chart = next(iter(before.values())).members[0]
    version[chart] += 1
    after = {p.index: p for p in plan_tiles(low, high, np.arange(len(low)), version)}
    assert before.keys() == after.keys()
    for index, plan in after.items():
        assert (plan.signature != before[index].signature) == (chart in plan.members)
    signatures = [p.signature for p in after.values()]
    distinct = {(tuple(p.members), tuple(version[p.members])) for p in after.values()}
    assert len(set(signatures)) == len(distinct)
    assert all(0 <= s < 2**64 for s in signatures)


@pytest.mark.parametrize("only", [None, np.zeros((0, 3), np.int64), np.zeros((1, 3), np.int64)])
def test_nothing_to_plan(only: Ints | None) -> None:
    none = np.zeros((0, 3), np.int64)
    assert list(plan_tiles(none, none, np.zeros(0, np.int64), np.zeros(0, np.int64), only)) == []
    empty = np.ones((3, 3), np.int64)
    assert list(plan_tiles(empty, empty - 1, np.arange(3), np.ones(3, np.int64), only)) == []
    assert len(tiles_of(empty, empty - 1)) == 0


def test_only_tiles_far_from_all_boxes() -> None:
    low, high, version = _boxes(0)
    assert list(plan_tiles(low, high, np.arange(len(low)), version, np.array([[50, 50, 50]]))) == []
    # Inside the boxes' hull, but in no box.
    corners = np.array([[-9, -9, -9], [9, 9, 9]])
    assert list(plan_tiles(corners, corners, np.arange(2), np.ones(2, np.int64), np.array([[0, 0, 0]]))) == []
