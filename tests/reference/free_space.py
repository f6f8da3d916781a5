"""What a view sees through, by definition and one place at a time: nothing is skipped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.frames.view import SensorView
from tests.reference.shapes import look_at

__all__ = ["is_clear_hit", "is_seen_through", "random_view", "votes"]

Array = npt.NDArray[np.float64]


def _projected(view: SensorView, points_m: Array) -> tuple[Array, Array, Array]:
    """Columns, rows, and depths or ranges of world points (N, 3); not positive where there is none."""
    x, y, z = ((points_m - view.origin_m) @ view.rotation).T
    with np.errstate(divide="ignore", invalid="ignore"):
        if view.is_pinhole:
            across, down, distance = x / z, y / z, z
        else:
            distance = np.sqrt(x**2 + y**2 + z**2)
            across, down = np.arctan2(y, x), np.arcsin(z / distance)
    scale_u, scale_v, offset_u, offset_v = view.camera
    return scale_u * across + offset_u, scale_v * down + offset_v, distance


def _returns(view: SensorView, u: float, v: float, window: int) -> list[float]:
    """What the window x window pixels whose centres are nearest (u, v) returned."""
    height, width = view.seen_m.shape
    half = 0.5 * window
    rows = [i for i in range(int(v - half) - 2, int(v + half) + 3) if -half < i - v <= half]
    columns = [j for j in range(int(u - half) - 2, int(u + half) + 3) if -half < j - u <= half]
    assert len(rows) == len(columns) == window
    if view.is_pinhole:
        columns = [j for j in columns if 0 <= j < width]
    found = [view.seen_m[i, j % width] for i in rows if 0 <= i < height for j in columns]
    return [float(d) for d in found if d > 0]


def _sigma_m(view: SensorView, distance_m: float) -> float:
    a, b, c = view.noise
    return a + b * (distance_m - c) ** 2


def is_seen_through(
    view: SensorView, points_m: Array, margin_m: float, *, window: int | None = None, sigmas: float = 3
) -> npt.NDArray[np.bool_]:
    """Whether all returns about a place (N, 3) lie behind it, by more than the margin and so many sigma."""
    out = np.zeros(len(points_m), np.bool_)
    for k, (u, v, distance) in enumerate(zip(*_projected(view, points_m), strict=True)):
        if not (distance > 0 and np.isfinite(u) and np.isfinite(v) and max(abs(u), abs(v)) < 1e6):
            continue
        found = _returns(view, u, v, window or view.window)
        out[k] = bool(found) and distance < min(found) - margin_m - sigmas * _sigma_m(view, min(found))
    return out


def votes(view: SensorView, points_m: Array, facing: Array, margin_m: float) -> npt.NDArray[np.int64]:
    """Of places (N, 3) whose normals meet their rays at such cosines (N,): 1 hit, -1 pass, 0 neither.

    -2 is a pass of a pixel image without a hit among the pixels around: a clear one.
    """
    out = np.zeros(len(points_m), np.int64)
    for k, (u, v, distance) in enumerate(zip(*_projected(view, points_m), strict=True)):
        in_sight = distance > 0 and np.isfinite(u) and np.isfinite(v) and max(abs(u), abs(v)) < 1e6
        if not in_sight or facing[k] < 0.2:
            continue
        found = _returns(view, u, v, 1 if view.is_pinhole and facing[k] > 0.5 else 3)
        if not found:
            continue
        reach = margin_m + _sigma_m(view, min(found))
        cosine = max(facing[k], 0.7)
        if _is_hit(found, distance, margin_m, cosine, reach):
            out[k] = 1
        elif (min(found) - distance) * cosine > reach:
            around = _returns(view, u, v, 3)
            is_clear = view.is_pinhole and not _is_hit(around, distance, margin_m, cosine, reach)
            out[k] = -2 if is_clear else -1
    return out


def _is_hit(found: list[float], distance: float, margin_m: float, cosine: float, reach_m: float) -> bool:
    gaps = [abs(d - distance) for d in found if d >= distance - margin_m * 2 / 3]
    return min(gaps, default=np.inf) * cosine <= reach_m


def is_clear_hit(view: SensorView, place_m: Array, facing: float, margin_m: float) -> bool:
    """Whether all 5 x 5 pixels of a camera about a place that is hit end at it: no edge is near."""
    (u,), (v,), (distance,) = _projected(view, place_m[None])
    found = _returns(view, u, v, 5)
    reach = margin_m + _sigma_m(view, min(_returns(view, u, v, 1 if facing > 0.5 else 3)))
    return len(found) == 25 and max(abs(d - distance) for d in found) * max(facing, 0.7) <= reach


def random_view(
    rng: np.random.Generator,
    is_pinhole: bool,
    size: tuple[int, int],
    *,
    distance_m: float = 1.0,
    reach_m: float = 2.0,
    half_angle: float = 0.55,
) -> SensorView:
    """From ``distance_m`` off the origin, looking towards it; patches at random distances, a fifth empty.

    ``half_angle`` (radians) is half the width of a camera's view, and the highest elevation of a LiDAR.
    """
    height, width = size
    patch = 7
    coarse = rng.uniform(0.2, 1.0, (height // patch + 1, width // patch + 1)) ** 0.5 * reach_m
    coarse[rng.uniform(size=coarse.shape) < 0.2] = 0
    seen = np.kron(coarse, np.ones((patch, patch)))[:height, :width]
    seen[rng.uniform(size=seen.shape) < 0.05] = 0
    direction = rng.normal(size=3)
    pose = look_at(distance_m * direction / np.linalg.norm(direction), 0.1 * rng.normal(size=3))
    if is_pinhole:
        focal = 0.5 * width / np.tan(half_angle)
        camera = (focal, 1.1 * focal, 0.5 * width - 0.3, 0.5 * height - 0.6)
        noise = (0.0012, 0.0019, 0.4)
    else:
        per_turn, per_rad = width / (2 * np.pi), height / (2 * half_angle)
        camera = (per_turn, per_rad, np.pi * per_turn - 0.5, half_angle * per_rad - 0.5)
        noise = (0.005, 0.0, 0.0)
        # The sensor's x axis, where a LiDAR's azimuth is 0, points any way.
        turn = rng.uniform(-np.pi, np.pi)
        c, s = np.cos(turn), np.sin(turn)
        pose[:3, :3] = pose[:3, :3] @ [[0, 0, 1], [-1, 0, 0], [0, -1, 0]] @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    return SensorView(
        seen_m=seen.astype(np.float32),
        is_pinhole=is_pinhole,
        camera=camera,
        window=2 if is_pinhole else 3,
        noise=noise,
        rotation=np.ascontiguousarray(pose[:3, :3]),
        origin_m=pose[:3, 3].copy(),
    )
