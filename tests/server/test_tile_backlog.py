"""Tiles that wait to be extracted: every one comes out once, those that change all the time last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp_server.tile_backlog import TileBacklog


def _places(*xs: int) -> npt.NDArray[np.int64]:
    return np.array([(x, -x, 0) for x in xs], np.int64).reshape(-1, 3)


def _xs(places: npt.NDArray[np.int64]) -> list[int]:
    return sorted(places[:, 0].tolist())


def test_what_changed_last_waits_longest() -> None:
    backlog = TileBacklog()
    backlog.add(_places(1, 2, 3))
    assert _xs(backlog.take(3)) == []
    backlog.add(_places(3, 4))
    assert len(backlog) == 4
    assert _xs(backlog.take(2)) == [1, 2]
    backlog.add(_places(5))
    assert _xs(backlog.take(1)) == [3, 4]
    assert _xs(backlog.take(0)) == [5]
    assert _xs(backlog.take(0)) == []


def test_nothing_is_lost_and_nothing_is_taken_twice_without_having_changed() -> None:
    rng = np.random.default_rng(0)
    backlog, waiting = TileBacklog(), set()
    for left in rng.integers(0, 60, 200):
        stale = rng.choice(100, rng.integers(0, 40), replace=False)
        backlog.add(_places(*stale))
        waiting |= set(stale.tolist())
        taken = _xs(backlog.take(int(left)))
        assert len(set(taken)) == len(taken)
        assert set(taken) <= waiting
        waiting -= set(taken)
        assert len(waiting) == len(backlog) <= left
