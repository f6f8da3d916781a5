"""From sensor to world in one pass, against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from streamdgp.frames.kernels import world_points

_MIN_COS = 0.1
Array = npt.NDArray[Any]


def _cloud(count: int, seed: int = 0) -> tuple[Array, Array, Array, Array, Array]:
    """Points, normals (a tenth of them zero), sigma, rotation, translation (far from the origin)."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals[rng.uniform(size=count) < 0.1] = 0
    sigma = rng.uniform(1e-3, 1e-2, count).astype(np.float32)
    rotation = Rotation.random(random_state=seed).as_matrix()
    return points, normals.astype(np.float32), sigma, rotation, np.array([5e5, -2.0, 3e6])


@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize("origin", [None, (0.0, 0.0, 0.0), (0.3, -2.0, 4.0)])
def test_against_numpy(count: int, origin: tuple[float, float, float] | None) -> None:
    points, normals, sigma, rotation, translation = _cloud(count)
    at = np.zeros(3) if origin is None else np.array(origin)
    got = world_points(points, normals, sigma, at, origin is not None, rotation, translation, _MIN_COS, count)
    p, n = points.astype(np.float64), normals.astype(np.float64)
    to_sensor = at - p
    cosine = (to_sensor * n).sum(1) / np.linalg.norm(to_sensor, axis=1)
    if origin is None:
        cosine = np.ones(count)
    row = np.flatnonzero((n != 0).any(1) & (cosine >= _MIN_COS))
    assert (np.abs(cosine - _MIN_COS) > 1e-6).all(), "no point on the border, where rounding decides"
    positions, turned, noise, incidence, kept = got
    np.testing.assert_array_equal(kept, row)
    np.testing.assert_allclose(positions, p[row] @ rotation.T + translation, rtol=0, atol=2e-9)
    np.testing.assert_allclose(turned, n[row] @ rotation.T, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(noise, sigma[row])
    np.testing.assert_allclose(incidence, cosine[row], rtol=0, atol=1e-6)
    kinds = [x.dtype for x in got]
    assert kinds == [np.float64, np.float32, np.float32, np.float32, np.int64]
    assert [x.shape for x in got] == [(len(row), 3), (len(row), 3), *[(len(row),)] * 3]
    if count == 5000:
        assert 0.2 * count < len(row) < (0.95 if origin is None else 0.6) * count


@pytest.mark.parametrize(
    ("point", "normal", "kept"),
    [
        ((0, 0, 2), (0, 0, -1), True),
        ((0, 0, 2), (0, 0, 1), False),  # seen from behind
        ((0, 0, 2), (1, 0, 0), False),  # edge on
        ((0, 0, 2), (0, 0, 0), False),  # no normal
        ((0, 0, 0), (0, 0, -1), False),  # at the sensor: no direction
        ((0, 0, 2), (np.nan, 0, -1), False),
        ((np.nan, 0, 2), (0, 0, -1), False),
    ],
)
def test_single_points(point: tuple[float, ...], normal: tuple[float, ...], kept: bool) -> None:
    one = (np.array([x], np.float32) for x in (point, normal))
    got = world_points(
        *one, np.array([0.01], np.float32), np.zeros(3), True, np.eye(3), np.zeros(3), _MIN_COS, 1
    )
    assert len(got[0]) == int(kept)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (16, 16), (17, 33), (40, 90)])
def test_an_image_comes_in_blocks(height: int, width: int) -> None:
    """Every pixel once, with its own values, block after block."""
    points, normals, sigma, rotation, translation = _cloud(height * width)
    given = (points, normals, sigma, np.zeros(3), False, rotation, translation, _MIN_COS)
    plain, blocks = world_points(*given, height * width), world_points(*given, width)
    assert sorted(blocks[4]) == sorted(plain[4])
    back = np.argsort(blocks[4])
    for ours, theirs in zip(blocks, plain, strict=True):
        np.testing.assert_array_equal(ours[back], theirs)
    row, column = np.divmod(blocks[4], width)
    block = row // 16 * (width // 16 + 1) + column // 16
    assert (np.diff(block) >= 0).all()
