"""What a view says of the cells of charts, against numpy, one cell at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.free_cells import MOST_VOTES
from streamdgp.evidence.patches import SUPPORT_CELLS
from streamdgp.frames.view import SensorView
from tests.reference.free_space import is_clear_hit, random_view, votes

Array = npt.NDArray[Any]
_SCALE, _MARGIN = 0.064, 0.03


def _atlas(rng: np.random.Generator, count: int, half_m: float = 0.6, far_share: float = 0.0) -> Atlas:
    """Gently bent charts at random places, any way round, with random votes; the last is not fitted.

    ``far_share`` of their places lie three radii off, as some do of charts with little evidence.
    """
    atlas = Atlas(0.04, _SCALE, 12)
    while atlas.capacity <= count:
        atlas.grow()
    atlas.columns["anchor"][:count] = rng.uniform(-half_m, half_m, (count, 3))
    new = atlas.appended(count, 0)
    normals = rng.normal(size=(count, 3))
    atlas.face(new, normals / np.linalg.norm(normals, axis=1, keepdims=True))
    v = np.linspace(-1, 1, 33)
    x, y = np.meshgrid(v, v, indexing="ij")
    bend = rng.uniform(-0.1, 0.1, (count, 3, 1, 1))
    height = bend[:, 0] * x * x + bend[:, 1] * y * y + bend[:, 2] * x * y
    if far_share:
        height += rng.choice([-3.0, 3.0], height.shape) * (rng.uniform(size=height.shape) < far_share)
    rasters = np.stack([np.broadcast_to(x, height.shape), np.broadcast_to(y, height.shape), height], -1)
    atlas.store_weights(new, np.zeros((count, 12), np.float32), rasters.astype(np.float32))
    atlas.columns["fits"][new[:-1]] = 1
    shape = (count, SUPPORT_CELLS, SUPPORT_CELLS)
    for name in ("hits", "passes", "support"):
        some = rng.integers(0, 12, shape) * (rng.uniform(size=shape) < 0.6)
        atlas.columns[name][new] = np.where(
            rng.uniform(size=shape) < 0.1, rng.integers(MOST_VOTES - 2, MOST_VOTES + 1, shape), some
        )
    return atlas


def _cells_m(atlas: Atlas, chart: int) -> tuple[Array, Array]:
    """World positions and unit normals (16, 16, 3) of a chart's cells, from its raster."""
    raster = np.asarray(atlas.rasters[chart], np.float64)
    middle = slice(1, 33, 2)
    along = raster[2::2, middle] - raster[:-2:2, middle]
    across = raster[middle, 2::2] - raster[middle, :-2:2]
    normal = np.cross(along, across)
    rotation = atlas.columns["rotation"][chart]
    position = atlas.columns["anchor"][chart] + _SCALE * raster[middle, middle] @ rotation.T
    return position, (normal / np.linalg.norm(normal, axis=-1, keepdims=True)) @ rotation.T


def _slowly(atlas: Atlas, view: SensorView, frames: int = 1) -> tuple[Array, Array]:
    """Hits and passes after one view, by definition."""
    hits, passes = (atlas.column(name).astype(int) for name in ("hits", "passes"))
    center = (np.arange(SUPPORT_CELLS) + 0.5) / SUPPORT_CELLS * 2 - 1
    in_disk = np.hypot(*np.meshgrid(center, center, indexing="ij")) <= 1
    for chart in range(len(atlas)):
        offset = atlas.columns["anchor"][chart] - view.origin_m
        distance = (offset @ view.rotation)[2] if view.is_pinhole else np.linalg.norm(offset)
        is_fitted = atlas.columns["fits"][chart] > 0
        if not is_fitted or min(float(distance), float(np.linalg.norm(offset))) <= 2 * _SCALE:
            continue
        position, normal = _cells_m(atlas, chart)
        ray = position - view.origin_m
        facing = np.abs((ray * normal).sum(-1)) / np.linalg.norm(ray, axis=-1)
        said = votes(view, position.reshape(-1, 3), facing.ravel(), _MARGIN).reshape(16, 16)
        is_near = np.linalg.norm((position - atlas.columns["anchor"][chart]) / _SCALE, axis=-1) <= 2
        said *= in_disk & is_near & ((atlas.columns["support"][chart] > 0) | (passes[chart] > 0))
        is_full = (said != 0) & (np.maximum(hits[chart], passes[chart]) >= MOST_VOTES)
        # A hit of a cell that does not show counts for all frames since the last look, clear of edges.
        against = np.interp(hits[chart], [16, 26], [3, 2]) * np.maximum(passes[chart] - 0.5, 0.0)
        is_back = (said > 0) & (hits[chart] < against) & (frames > 1)
        for i, j in np.argwhere(is_back) if view.is_pinhole else ():
            is_back[i, j] = is_clear_hit(view, position[i, j], float(facing[i, j]), _MARGIN)
        more = np.where(is_back, frames, said > 0)
        hits[chart] = np.where(is_full, hits[chart] // 2, hits[chart]) + more
        passes[chart] = np.where(is_full, passes[chart] // 2, passes[chart])
        # A first pass that is clear of edges counts twice.
        passes[chart] += np.where((said == -2) & (passes[chart] == 0), 2, said < 0)
    return hits, passes


@pytest.mark.parametrize("far_share", [0.0, 0.01])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("is_pinhole", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_against_numpy(is_pinhole: bool, seed: int, frames: int, far_share: float) -> None:
    rng = np.random.default_rng(seed)
    atlas = _atlas(rng, 60, far_share=far_share)
    hit = passed = clear = back = 0
    for frame in range(10, 14):
        view = random_view(rng, is_pinhole, (56, 80) if is_pinhole else (40, 240))
        want_hits, want_passes = _slowly(atlas, view, frames)
        before = {name: atlas.column(name).copy() for name in ("support", "hits", "passes", "version")}
        changed = atlas.see_through(view, _MARGIN, frame, frames)
        np.testing.assert_array_equal(atlas.column("hits"), want_hits)
        np.testing.assert_array_equal(atlas.column("passes"), want_passes)
        new = [atlas.column(name) != before[name] for name in ("hits", "passes")]
        voted = (new[0] | new[1]).any((1, 2))
        np.testing.assert_array_equal(changed, np.flatnonzero(voted))
        clear += int(((before["passes"] == 0) & (want_passes == 2)).sum())
        hit, passed = hit + int(new[0].sum()), passed + int(new[1].sum())
        back += int((want_hits - before["hits"] == 3).sum())
        # A support shows the votes as soon as they make a difference of a fifth.
        reshown = atlas.column("version") != before["version"]
        assert not (reshown & ~voted).any()
        same = (atlas.column("support") == before["support"]).all((1, 2))
        assert same[~reshown].all()
    if far_share:
        return
    assert (back > 0) == (frames == 3), "what is back counts for all frames of a look"
    assert not is_pinhole or clear > 30, "and some first ones clear of what is beside"
    assert passed > 300, "rays must pass through cells"
    assert hit > 100, "rays must end at cells"


@pytest.mark.parametrize(
    ("is_pinhole", "size", "half_deg"),
    [
        pytest.param(True, (480, 640), 20, id="camera of 40 degrees"),
        pytest.param(True, (480, 640), 30, id="camera of 60 degrees"),
        pytest.param(True, (480, 640), 45, id="camera of 90 degrees"),
        pytest.param(True, (480, 640), 60, id="camera of 120 degrees"),
        pytest.param(False, (128, 1024), 25, id="LiDAR up to 25 degrees"),
        pytest.param(False, (128, 1024), 45, id="LiDAR up to 45 degrees"),
        pytest.param(False, (128, 1024), 60, id="LiDAR up to 60 degrees"),
        pytest.param(False, (128, 1024), 85, id="LiDAR up to the poles"),
        pytest.param(False, (128, 1023), 25, id="LiDAR whose last tile is not whole"),
    ],
)
def test_one_return_behind_a_cell_is_enough(is_pinhole: bool, size: tuple[int, int], half_deg: float) -> None:
    """The hardest case for skipping: of the whole image only the cell's own pixel lies behind it, barely."""
    rng = np.random.default_rng(1)
    height, width = size
    half = np.deg2rad(half_deg)
    missed = tried = 0
    for _ in range(120):
        atlas = _atlas(rng, 9)
        for name, value in (("support", 255), ("hits", 3), ("passes", 0)):
            atlas.columns[name][:9] = value
        for chart in range(0, 8, 2):
            position, normal = (c.reshape(-1, 3) for c in _cells_m(atlas, chart))
            if is_pinhole:
                focal = 0.5 * width / np.tan(half)
                camera = (focal, focal, 0.5 * width - 0.5, 0.5 * height - 0.5)
                u, v = rng.uniform(0, width - 1.1), rng.uniform(0, height - 1.1)
                ray = np.array([(u - camera[2]) / focal, (v - camera[3]) / focal, 1])
            else:
                camera = (width / (2 * np.pi), height / (2 * half), 0.5 * width - 0.5, 0.5 * height - 0.5)
                azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(-0.97, 0.97) * half
                u, v = camera[0] * azimuth + camera[2], camera[1] * elevation + camera[3]
                flat = np.cos(elevation)
                ray = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
            rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            rotation[:, 0] *= np.sign(np.linalg.det(rotation))
            distance = float(np.exp(rng.uniform(np.log(0.25), np.log(3))))
            # The cell that is nearest to the sensor.
            center = (np.arange(SUPPORT_CELLS) + 0.5) / SUPPORT_CELLS * 2 - 1
            radius = np.hypot(*np.meshgrid(center, center, indexing="ij")).ravel()
            direction = rotation @ ray / np.linalg.norm(ray)
            towards = (position - atlas.columns["anchor"][chart]) @ (
                rotation[:, 2] if is_pinhole else direction
            )
            cell = int(np.argmin(np.where(radius <= 1, towards, np.inf)))
            if abs(normal[cell] @ direction) < 0.52:
                continue
            origin = position[cell] - rotation @ ray * distance
            offset = atlas.columns["anchor"][chart] - origin
            away = (offset @ rotation)[2] if is_pinhole else np.linalg.norm(offset)
            if min(float(away), float(np.linalg.norm(offset))) <= 2 * _SCALE:
                continue
            seen = np.zeros(size, np.float32)
            seen[min(max(round(v), 0), height - 1), round(u) % width] = distance + _MARGIN + 0.001
            view = SensorView(
                seen, is_pinhole, camera, 2 if is_pinhole else 3, (1e-4, 0.0, 0.0),
                np.ascontiguousarray(rotation), origin,
            )  # fmt: skip
            tried += 1
            atlas.columns["passes"][:9] = 0
            missed += chart not in atlas.see_through(view, _MARGIN, 0)
    assert tried > 100
    assert not missed, f"{missed} of {tried}"
