"""Tiles: they weld without cracks, do not depend on who asks, and are extracted again only when stale."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from streamdgp.config import FitConfig, SceneConfig
from streamdgp.errors import InvalidInputError, StreamdgpError
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import SurfaceSnapshot, TileCache, TileMesh, weld_tiles
from streamdgp.surface.plan import TilePlan
from tests.reference.mesh import topology, triangle_set
from tests.reference.scans import VOXEL_M, scan
from tests.reference.shapes import Box, Plane, Union, depth_frame, look_at

Index = tuple[int, int, int]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Index]:
    """Indices of the tiles that are really extracted, in order."""
    seen: list[Index] = []
    original = SurfaceSnapshot._extract

    def extract(self: SurfaceSnapshot, plan: TilePlan, step: float) -> TileMesh:
        seen.append(plan.index)
        return original(self, plan, step)

    monkeypatch.setattr(SurfaceSnapshot, "_extract", extract)
    return seen


def _same(a: TileMesh, b: TileMesh) -> bool:
    return (
        a.index == b.index
        and a.signature == b.signature
        and all(
            getattr(a, n).tobytes() == getattr(b, n).tobytes()
            for n in ("origin_m", "vertices", "normals", "triangles", "vertex_keys")
        )
    )


def _by_index(tiles: Iterator[TileMesh]) -> dict[Index, TileMesh]:
    out: dict[Index, TileMesh] = {}
    for tile in tiles:
        assert tile.index not in out
        out[tile.index] = tile
    return out


def test_tile_contents() -> None:
    tiles = list(scan("torus", True).reconstructor.surface().tiles())
    assert [t.index for t in tiles] == sorted(t.index for t in tiles), "lattice order"
    cells = SceneConfig().surface.tile_cells
    for t in tiles:
        assert len(t.triangles)
        assert t.resolution_m == VOXEL_M
        np.testing.assert_allclose(t.origin_m, np.array(t.index) * cells * VOXEL_M)
        assert (t.vertices.dtype, t.normals.dtype, t.triangles.dtype) == (np.float32, np.float32, np.int32)
        assert t.vertex_keys.dtype == np.int64
        assert t.triangles.min() == 0
        assert t.triangles.max() == len(t.vertices) - 1
        assert len(np.unique(t.triangles)) == len(t.vertices), "vertices that no triangle uses"
        assert len(np.unique(t.vertex_keys)) == len(t.vertices)
        assert t.vertices.min() > -VOXEL_M
        assert t.vertices.max() < (cells + 1) * VOXEL_M
        assert 0 <= t.signature < 2**64
        assert t.byte_count >= t.vertices.nbytes + t.triangles.nbytes


def test_equal_keys_are_equal_vertices() -> None:
    """Vertices that tiles share have the same place to float32 and the same normal."""
    tiles = list(scan("torus", True).reconstructor.surface().tiles())
    place: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    shared = 0
    for t in tiles:
        world = t.origin_m + t.vertices.astype(np.float64)
        for key, p, n in zip(t.vertex_keys.tolist(), world, t.normals, strict=True):
            if key in place:
                shared += 1
                np.testing.assert_allclose(p, place[key][0], atol=5e-8)
                np.testing.assert_allclose(n, place[key][1], atol=1e-6)
            else:
                place[key] = (p, n)
    assert shared > 300
    places = np.array([p for p, _ in place.values()])
    _, count = np.unique(np.round(places / 1e-6), axis=0, return_counts=True)
    assert (count > 1).mean() < 1e-3, "different keys at one place: a crack the weld does not close"


@pytest.mark.parametrize("cells", [5, 8, 64])
def test_tile_size_does_not_change_the_mesh(cells: int) -> None:
    """Tile by tile, or in (nearly) one go: the same triangles."""
    s = scan("torus", True)
    snap = s.reconstructor.surface()
    other = weld_tiles(replace(snap, tile_cells=cells).tiles())
    assert len(other.triangles) == len(s.mesh.triangles)
    assert len(other.vertices) == len(s.mesh.vertices)
    assert topology(other).closed
    gap, partner = cKDTree(other.vertices).query(s.mesh.vertices)
    assert gap.max() < 1e-6
    assert len(np.unique(partner)) == len(partner)
    a, b = triangle_set(s.mesh, 5), triangle_set(other, 5)
    # A coordinate within 1e-8 of a rounding boundary may round either way.
    assert len(a & b) > 0.98 * len(a)


@pytest.mark.parametrize("roi", [(-0.05, -0.3, -0.3, 0.3, 0.02, 0.3), (0.1, 0.1, 0.0, 0.1, 0.1, 0.0)])
def test_a_region_gives_the_same_tiles_as_the_whole(roi: Sequence[float]) -> None:
    snap = scan("torus", True).reconstructor.surface()
    whole, part = _by_index(snap.tiles()), _by_index(snap.tiles(roi_m=roi))
    edge = snap.tile_cells * VOXEL_M
    lo, hi = np.floor(np.array(roi[:3]) / edge), np.floor(np.array(roi[3:]) / edge)
    wanted = {i for i in whole if (lo <= i).all() and (i <= hi).all()}
    assert set(part) == wanted
    assert all(_same(part[i], whole[i]) for i in part)


def test_a_region_elsewhere_is_empty_and_an_endless_one_is_everything() -> None:
    snap = scan("torus", True).reconstructor.surface()
    assert list(snap.tiles(roi_m=(50, 50, 50, 60, 60, 60))) == []
    whole = _by_index(snap.tiles())
    for far in (1e3, 1e9, 1e25):
        part = _by_index(snap.tiles(roi_m=(-far, -far, -far, far, far, far)))
        assert set(part) == set(whole), f"a region of +-{far:g} m"


def test_the_cache_gives_identical_tiles(counted: list[Index]) -> None:
    snap = scan("torus", True).reconstructor.surface()
    cache = TileCache()
    first = list(snap.tiles(cache=cache))
    extracted = len(counted)
    assert extracted >= len(first)
    again = list(snap.tiles(cache=cache))
    assert len(counted) == extracted, "nothing changed, nothing is extracted"
    assert all(_same(a, b) for a, b in zip(first, again, strict=True))
    cold = list(snap.tiles())
    assert all(_same(a, b) for a, b in zip(first, cold, strict=True))
    list(snap.tiles(resolution_m=2 * VOXEL_M, cache=cache))
    assert len(counted) > 2 * extracted, "another resolution is another tile"


def _two_patches() -> Reconstructor:
    """A floor seen at two places two metres apart."""
    # Frames of one place, and each is to change something.
    fit = FitConfig(most_waiting=1)
    r = Reconstructor(SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M, fit=fit))
    for x in (0.0, 2.0):
        r.integrate(_view(x))
    return r


def _view(x: float):  # noqa: ANN202
    return depth_frame(Plane((0, 0, 0.001), (0, 0, 1)), look_at((x, 0, 0.7), (x, 0.01, 0)))


def test_only_stale_tiles_are_extracted_again(counted: list[Index]) -> None:
    r = _two_patches()
    cache = TileCache()
    before = _by_index(r.surface().tiles(cache=cache))
    counted.clear()
    for dx in (0.0, 0.02, 0.04):
        r.integrate(_view(2.0 + dx))
    after = _by_index(r.surface().tiles(cache=cache))
    assert counted, "the second patch was refitted"
    edge = r.surface().tile_cells * VOXEL_M
    # The camera sees 0.7 / 80 * 40 = 0.35 m to each side, a chart reaches 0.064 m: nothing left of x = 1.5 m.
    assert min(i[0] for i in counted) * edge > 1.3
    left = {i for i in before if (i[0] + 1) * edge < 1.3}
    assert left
    for i in left:
        assert after[i] is before[i]
    fresh = _by_index(r.surface().tiles())
    assert set(fresh) == set(after)
    assert all(_same(fresh[i], after[i]) for i in fresh), "a stale tile was served"


def test_signatures_change_exactly_with_content() -> None:
    r = _two_patches()
    old = _by_index(r.surface().tiles())
    r.integrate(_view(2.0))
    r.integrate(_view(2.03))
    new = _by_index(r.surface().tiles())
    for i in old.keys() & new.keys():
        equal = old[i].vertices.tobytes() == new[i].vertices.tobytes() and len(old[i].triangles) == len(
            new[i].triangles
        )
        if old[i].signature == new[i].signature:
            assert equal, "equal signatures, different content"
    moved = [i for i in old.keys() & new.keys() if old[i].signature != new[i].signature]
    kept = [i for i in old.keys() & new.keys() if old[i].signature == new[i].signature]
    assert moved
    assert kept


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_what_a_smaller_chart_leaves_is_stale(ratio: float) -> None:
    """A chart that was three times as large: every tile that it had a say in, and no other."""
    now = scan("torus", True).reconstructor.surface()
    chart = np.arange(now.chart_count) == now.chart_count // 2
    before = replace(now, scale_m=np.where(chart, ratio, 1.0) * now.scale_m, version=now.version - chart)
    old, new = before.signatures(), now.signatures()
    changed = {index for index in old.keys() | new.keys() if old.get(index) != new.get(index)}
    stale = {tuple(index) for index in now.stale_tiles(before.version, before.scale_m).tolist()}
    assert stale == changed
    assert len(stale) >= (27 if ratio > 1 else 8)
    assert not len(now.stale_tiles(now.version, now.scale_m))


def test_tiles_of_charts_that_became_smaller_are_stale() -> None:
    """A floor of large charts, then a box upon it that makes some of them small: against all signatures."""
    config = SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M)
    r, shrunk = Reconstructor(config), 0
    floor, box = Plane((0, 0, 0), (0, 0, 1)), Box((0.05, 0.0, 0.0), (0.1, 0.1, 0.1))
    for k in range(8):
        before, levels = r.surface(), r.changes().tables["charts"].columns["level"].copy() if k else None
        angle = 0.4 * k
        pose = look_at((0.5 * np.cos(angle), 0.5 * np.sin(angle), 0.6), (0.0, 0.01, 0.0))
        r.integrate(depth_frame(floor if k < 4 else Union((floor, box)), pose))
        now = r.surface()
        if levels is None:
            continue
        shrunk += int((r.changes().tables["charts"].columns["level"][: len(levels)] < levels).sum())
        old, new = before.signatures(), now.signatures()
        changed = {index for index in old.keys() | new.keys() if old.get(index) != new.get(index)}
        stale = {tuple(index) for index in now.stale_tiles(before.version, before.scale_m).tolist()}
        assert changed <= stale
    assert shrunk, "charts must become smaller, else this shows nothing"


def test_a_snapshot_is_not_touched_by_later_frames() -> None:
    r = _two_patches()
    snap = r.surface()
    before = list(snap.tiles())
    bounds = snap.bounds_m
    for x in (2.0, 1.0, 0.0, 0.05):
        r.integrate(_view(x))
    after = list(snap.tiles())
    assert all(_same(a, b) for a, b in zip(before, after, strict=True))
    assert snap.bounds_m == bounds


def test_snapshots_may_be_read_while_frames_come_in() -> None:
    r = _two_patches()
    snap = r.surface()
    wanted = [t.vertices.tobytes() for t in snap.tiles()]
    failures: list[object] = []
    done = threading.Event()

    def read() -> None:
        cache = TileCache(100_000)
        while True:
            got = [t.vertices.tobytes() for t in snap.tiles(cache=cache)]
            if got != wanted:
                failures.append(len(got))
            if done.is_set():
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for x in (2.0, 1.9, 0.1):
        r.integrate(_view(x))
    done.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


def test_the_cache_is_bounded() -> None:
    tiles = list(scan("torus", True).reconstructor.surface().tiles())
    size = sum(t.byte_count for t in tiles)
    cache = TileCache(size // 3)
    for t in tiles:
        cache.put(t, 0.0)
    held = [t for t in tiles if cache.get(t.resolution_m, t.index, t.signature) is not None]
    assert 0 < sum(t.byte_count for t in held) <= size // 3
    assert held[-1] is tiles[-1], "the newest is held"
    assert cache.get(tiles[-1].resolution_m, tiles[-1].index, tiles[-1].signature ^ 1) is None


def test_cancelling_stops_early() -> None:
    """Asked before the first tile and again and again: what was extracted meanwhile is a part."""
    snap = replace(scan("torus", True).reconstructor.surface(), tile_cells=4)
    total = len(list(snap.tiles()))
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    assert total > 400
    assert len(list(snap.tiles(cancelled=stop))) < total / 2
    assert asked == 3
    assert list(snap.tiles(cancelled=lambda: True)) == []


def test_extraction_twice_gives_the_same_bytes() -> None:
    snap = scan("saddle", True).reconstructor.surface()
    a, b = weld_tiles(snap.tiles()), weld_tiles(snap.tiles())
    for name in ("vertices", "normals", "triangles"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()


@pytest.mark.parametrize("resolution", [0.0, -0.01, float("nan"), float("inf"), -float("inf")])
def test_bad_resolutions_are_refused(resolution: float) -> None:
    snap = scan("torus", True).reconstructor.surface()
    with pytest.raises(InvalidInputError, match="greater than 0") as caught:
        list(snap.tiles(resolution_m=resolution))
    assert caught.value.remedy
    with pytest.raises(InvalidInputError):
        snap.estimate_cells(resolution)


@pytest.mark.parametrize(
    "roi",
    [
        (1, 0, 0, 0, 1, 1),
        (0, 0, 5, 1, 1, 1),
        (0, 0, 0, 1, 1),
        (0, 0, 0, 1, 1, float("nan")),
        (-float("inf"), 0, 0, 1, 1, 1),
        (),
    ],
)
def test_bad_regions_are_refused(roi: Sequence[float]) -> None:
    snap = scan("torus", True).reconstructor.surface()
    with pytest.raises(InvalidInputError, match="min <= max") as caught:
        list(snap.tiles(roi_m=roi))
    assert "metres" in caught.value.wanted
    with pytest.raises(InvalidInputError):
        snap.estimate_cells(VOXEL_M, roi)


@pytest.mark.parametrize("resolution", [1e-6, 1e-100, 1e-200, 5e-324])
def test_the_cost_of_an_absurd_resolution_can_be_asked(resolution: float) -> None:
    """A caller asks before paying: a huge number or our own error, never an arithmetic fault."""
    snap = scan("torus", True).reconstructor.surface()
    try:
        cells = snap.estimate_cells(resolution)
    except StreamdgpError:
        return
    assert cells > 10**9


def test_the_estimate_follows_the_cells_really_looked_at() -> None:
    snap = scan("torus", True).reconstructor.surface()
    fine, coarse = snap.estimate_cells(0.5 * VOXEL_M), snap.estimate_cells(VOXEL_M)
    assert fine == pytest.approx(4 * coarse, rel=0.01)
    vertices = sum(len(t.vertices) for t in snap.tiles())
    assert vertices < coarse < 100 * vertices
    part = snap.estimate_cells(VOXEL_M, (0, 0, -1, 1, 1, 1))
    assert 0.15 * coarse < part < 0.6 * coarse
    assert snap.estimate_cells(VOXEL_M, (50, 50, 50, 51, 51, 51)) == 0


def test_an_empty_scene() -> None:
    snap = Reconstructor(SceneConfig()).surface()
    assert snap.chart_count == 0
    assert snap.bounds_m is None
    assert snap.resolution_m is None
    assert snap.estimate_cells(0.01) == 0
    assert snap.estimate_cells() == 0
    assert list(snap.tiles()) == []
    assert list(snap.tiles(resolution_m=0.01, roi_m=(0, 0, 0, 1, 1, 1))) == []
    mesh = weld_tiles([])
    assert mesh.vertices.shape == (0, 3)
    assert mesh.triangles.shape == (0, 3)
    with pytest.raises(InvalidInputError):
        list(snap.tiles(resolution_m=-1.0))


def test_bounds_hold_the_mesh() -> None:
    s = scan("torus", True)
    bounds = s.reconstructor.surface().bounds_m
    assert bounds is not None
    assert (s.mesh.vertices.min(0) >= bounds[:3]).all()
    assert (s.mesh.vertices.max(0) <= bounds[3:]).all()
    assert (np.array(bounds[3:]) - bounds[:3] < 0.29 * 2 + 0.2).all()
