"""Rows in view by runs, against a look at every row: nothing that a sensor sees is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.evidence.runs import Runs
from streamdgp.frames.view import SensorView
from tests.reference.free_space import random_view

Array = npt.NDArray[Any]


def _path(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Balls along a random walk: neighbours in the table lie close together."""
    centre = np.cumsum(rng.normal(size=(count, 3)) * 0.05, axis=0) + 0.1 * rng.normal(size=(count, 3))
    return centre - centre[count // 2], rng.uniform(0.0, 0.15, count)


def _touches(view: SensorView, centre: Array, radius: float, farthest_m: float, rng: Any) -> bool:
    """Whether one of very many points of a ball lies near, and in the image or a window beside it."""
    points = rng.normal(size=(400, 3))
    points *= (rng.uniform(size=(400, 1)) ** (1 / 3)) / np.linalg.norm(points, axis=1, keepdims=True)
    local = (centre + radius * points - view.origin_m) @ view.rotation
    if not view.is_pinhole:
        return bool((np.linalg.norm(local, axis=1) <= farthest_m).any())
    local = local[(local[:, 2] > 0) & (local[:, 2] <= farthest_m)]
    fu, fv, cu, cv = view.camera
    u, v = fu * local[:, 0] / local[:, 2] + cu, fv * local[:, 1] / local[:, 2] + cv
    height, width = view.seen_m.shape
    return bool(((u >= -3) & (u <= width + 2) & (v >= -3) & (v <= height + 2)).any())


@pytest.mark.parametrize("is_pinhole", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_all_that_is_in_view_is_found(is_pinhole: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre, radius = _path(rng, 1500)
    runs, filled = Runs(), 0
    while filled < 1500:
        more = min(int(rng.integers(0, 90)), 1500 - filled)
        runs.extend(centre[filled : filled + more], radius[filled : filled + more])
        filled += more
    assert len(runs) == 1500
    view = random_view(rng, is_pinhole, (56, 80) if is_pinhole else (40, 240))
    total = 0
    for farthest_m in (0.3, float(view.seen_m.max())):
        found = runs.in_view(view, farthest_m)
        assert (np.diff(found) > 0).all()
        seen = {k for k in range(1500) if _touches(view, centre[k], radius[k], farthest_m, rng)}
        assert seen <= set(found.tolist())
        total += len(seen)
    assert total > 20


def test_what_is_far_is_not_looked_at() -> None:
    """A drive of a kilometre: the camera looks at what is about it."""
    along = np.linspace(0.0, 1000.0, 20000)
    centre = np.stack([along, 0 * along, 0 * along], 1)
    runs = Runs()
    runs.extend(centre, 0.05)
    ahead = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    seen = np.full((48, 64), 5.0, np.float32)
    for is_pinhole, most in ((True, 5.0), (False, 10.0)):
        camera = (60.0, 60.0, 31.5, 23.5) if is_pinhole else (10.0, 10.0, 31.5, 23.5)
        view = SensorView(seen, is_pinhole, camera, 1, (0.0, 0.0, 0.0), ahead, np.array([500.0, 0, 0]))
        found = centre[runs.in_view(view, 5.0), 0]
        assert found.max() >= 505.0 - 0.1
        assert found.max() - found.min() <= most + 2 * 32 * 0.05 + 0.3
        assert (found.min() >= 500.0 - 32 * 0.05 - 0.2) == is_pinhole, "a camera does not look back"


def test_nothing_is_in_view_of_nothing() -> None:
    view = random_view(np.random.default_rng(0), True, (56, 80))
    runs = Runs()
    assert len(runs.in_view(view, 3.0)) == 0
    runs.extend(np.zeros((0, 3)), np.zeros(0))
    assert len(runs.in_view(view, 3.0)) == 0
