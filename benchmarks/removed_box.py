"""A box that is taken away while the sensor streams: python -m benchmarks.removed_box.

A box stands in a furnished, simulated room for the first half of a stream and is gone in the second.
How much of it is still in the surface, by how many frames have seen the place where it stood? Beside
ours a TSDF of the same frames, whose voxels average the box away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.config import SceneConfig
from streamdgp.evaluation import sample_surface
from streamdgp.evaluation.baselines import fuse_tsdf
from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.meshes import MeshLike, RayScene, TriangleMesh
from streamdgp.reconstructor import Reconstructor
from streamdgp.simulate import DepthSensor, make_room
from streamdgp.simulate._paths import _camera_looking
from streamdgp.simulate._shapes import box, join
from streamdgp.surface import TileCache, weld_tiles

GONE_SHARE = 0.01
GONE_FRAMES = 30
_WITHIN_VOXELS = 2.0
# Nearer than this to what stays, free space cannot tell the box from it: a ray's margin of three voxels,
# its noise, and the two voxels within which a point counts as present.
_CLEAR_VOXELS = 6.0
_BOX_CENTRE_M, _BOX_SIZE_M = (5.05, 1.75, 0.3), (0.45, 0.4, 0.6)
_SEEING_SHARE = 0.9
_TSDF_VOXEL_M = 0.02
_SAMPLES = 5000


@dataclass(frozen=True)
class Stream:
    """Frames of the room, with the box and then without."""

    frames: list[DepthFrame]
    sees_place: list[bool]
    """Whether nine tenths of the place where the box stands, or stood, lie open in the frame's view."""
    removed_at: int
    box_m: npt.NDArray[np.float64]
    """Points of the box's surface that were seen and lie clear of the rest of the room, (K, 3)."""


def make_stream(frames: int, sensor: DepthSensor, clear_m: float, seed: int = 7) -> Stream:
    """Walk back and forth past the box, looking about; it vanishes half way.

    Points of the box within ``clear_m`` of anything else do not count: the floor stays.
    """
    room, thing = make_room(seed), box(_BOX_CENTRE_M, _BOX_SIZE_M, 0.4)
    empty, full = RayScene(room), RayScene(join([room, thing]))
    alone, rng = RayScene(thing), np.random.default_rng(seed)
    removed_at = frames // 2
    f = sensor.focal_px
    camera = Intrinsics(f, f, sensor.width / 2, sensor.height / 2)
    made, seen = [], []
    for k in range(frames):
        pose = _pose(k)
        depth_m, hits = sensor.measure(full if k < removed_at else empty, pose, rng)
        made.append(DepthFrame(depth_m.astype(np.float32), camera, pose, max_range_m=sensor.max_range_m))
        if k < removed_at:
            seen.append(hits[alone.closest(hits.astype(np.float64))[0] < 1e-3])
    points, _ = sample_surface(thing, _SAMPLES, 1)
    counted = _countable(points, np.concatenate(seen), room, clear_m)
    sees = [_share_in_view(counted, frame, empty) >= _SEEING_SHARE for frame in made]
    return Stream(made, sees, removed_at, counted)


def _share_in_view(points_m: npt.NDArray[np.float64], frame: DepthFrame, empty: RayScene) -> float:
    """Share of the points inside the image with nothing of the room before them."""
    k, pose = frame.intrinsics, frame.world_T_sensor
    local = (points_m - pose[:3, 3]) @ pose[:3, :3]
    u, v = (f * local[:, i] / local[:, 2] + c for i, (f, c) in enumerate(((k.fx, k.cx), (k.fy, k.cy))))
    height, width = frame.depth_m.shape
    inside = (local[:, 2] > 0) & (u >= 0) & (v >= 0) & (u <= width - 1) & (v <= height - 1)
    return float((inside & (empty.cast(pose[:3, 3], points_m - pose[:3, 3]).t > 1)).mean())


def _pose(k: int) -> npt.NDArray[np.float64]:
    """Back and forth on an arc of 1.6 m about the box; every third gaze passes beside it."""
    turn = 2.3 + 0.9 * np.sin(0.11 * k)
    at = np.array(_BOX_CENTRE_M)
    eye = at + np.array([1.6 * np.cos(turn), 1.6 * np.sin(turn), 0.9 + 0.15 * np.sin(0.37 * k)])
    aside = 1.9 if k % 3 == 2 else 0.35
    gaze = at + aside * np.array([np.sin(0.53 * k), np.cos(0.71 * k), 0.0])
    return _camera_looking(eye, gaze)


def _countable(
    points_m: npt.NDArray[np.float64],
    seen_m: npt.NDArray[np.float32],
    room: TriangleMesh,
    clear_m: float,
) -> npt.NDArray[np.float64]:
    from scipy.spatial import cKDTree

    gap, _ = cKDTree(seen_m.astype(np.float64)).query(points_m)
    counts = (gap < clear_m) & (RayScene(room).closest(points_m)[0] > clear_m)
    return np.asarray(points_m[counts])


def share_left(mesh: MeshLike, points_m: npt.NDArray[np.float64], within_m: float) -> float:
    """Share of the points that the mesh comes close to."""
    if not len(mesh.triangles):
        return 0.0
    return float((RayScene(mesh).closest(points_m)[0] < within_m).mean())


def _config(free_space: bool | None) -> SceneConfig:
    config = SceneConfig()
    if free_space is None:
        return config
    return dataclasses.replace(config, evidence=dataclasses.replace(config.evidence, free_space=free_space))


def first_voxel_m(sensor: DepthSensor) -> float:
    """The evidence voxel that the engine chooses for this stream."""
    engine = Reconstructor()
    engine.integrate(make_stream(2, sensor, 0.01).frames[0])
    return float(engine.config.evidence_voxel_m or 0.0)


def decay(stream: Stream, within_m: float, free_space: bool | None) -> tuple[list[float], Reconstructor]:
    """Share of the box left: before it goes, then after each frame that sees its place."""
    engine, cache = Reconstructor(_config(free_space)), TileCache()
    low, high = stream.box_m.min(axis=0) - 2 * within_m, stream.box_m.max(axis=0) + 2 * within_m
    shares = []
    for k, frame in enumerate(stream.frames):
        engine.integrate(frame)
        if k == stream.removed_at - 1 or (k >= stream.removed_at and stream.sees_place[k]):
            mesh = weld_tiles(engine.surface().tiles(roi_m=[*low, *high], cache=cache))
            shares.append(share_left(mesh, stream.box_m, within_m))
    return shares, engine


def tsdf_decay(stream: Stream, within_m: float, steps: list[int]) -> list[float]:
    """The same of a TSDF, after as many frames that see the place as ``steps`` says."""
    seeing = [k for k in range(stream.removed_at, len(stream.frames)) if stream.sees_place[k]]
    ends = [stream.removed_at if step == 0 else seeing[step - 1] + 1 for step in steps]
    return [
        share_left(fuse_tsdf(stream.frames[:end], _TSDF_VOXEL_M).mesh, stream.box_m, within_m) for end in ends
    ]


def frames_until_gone(shares: list[float]) -> float:
    """After how many frames less than a hundredth is left, for good; infinity for never."""
    left = [k for k, share in enumerate(shares) if not share < GONE_SHARE]
    gone = left[-1] + 1 if left else 0
    return float(gone) if gone < len(shares) else float("inf")


def run(frames: int = 120, free_space: bool | None = None, width: int = 320) -> Result:
    """Stream, take the box away, stream on."""
    sensor = DepthSensor(width, width * 3 // 4, 290.0 * width / 320, max_range_m=4.0)
    voxel_m = first_voxel_m(sensor)
    within_m, clear_m = _WITHIN_VOXELS * voxel_m, _CLEAR_VOXELS * voxel_m
    stream = make_stream(frames, sensor, clear_m)
    shares, engine = decay(stream, within_m, free_space)
    steps = [step for step in (0, 5, 10, 15, 20, 25, 30, 40) if step < len(shares)]
    theirs = tsdf_decay(stream, within_m, [step for step in steps if step % 10 == 0])
    told = iter(theirs)
    other = [f"{100 * next(told):.1f}" if step % 10 == 0 else "" for step in steps]
    rows = [
        ["streamdgp", *(f"{100 * shares[step]:.1f}" for step in steps)],
        [f"Open3D TSDF, {100 * _TSDF_VOXEL_M:g} cm", *other],
    ]
    title = (
        f"% of a box left after n frames of {sensor.width} x {sensor.height} that see where it stood;"
        f" within 2 voxels ({1e3 * within_m:.0f} mm)"
    )
    is_on = engine.config.evidence.free_space
    return Result(
        "Removed box",
        [Table(title, ["n", *map(str, steps)], rows)],
        [
            Check("gate", "share of the box in the surface before it goes", shares[0], 0.9, False),
            Check("gate", "frames until less than 1 % of it is left", frames_until_gone(shares), GONE_FRAMES),
        ],
        [
            f"free space {'on' if is_on else 'off'}; {frames} frames, box taken away after"
            f" {stream.removed_at}, {len(shares) - 1} of the rest see its place;"
            f" what is within {1e3 * clear_m:.0f} mm of the room does not count"
        ],
        {
            "shares_left": shares,
            "tsdf": theirs,
            "within_m": within_m,
            "free_space": is_on,
        },
    )


@click.command(epilog="Example: python -m benchmarks.removed_box --free-space")
@click.option("--frames", default=120, show_default=True, help="The box stands for half of them.")
@click.option("--free-space/--no-free-space", default=None, help="Default: as the engine has it.")
@click.option("--width", default=320, show_default=True, help="Of a depth image, pixels.")
@json_option
def main(frames: int, free_space: bool | None, width: int, json_path: Path | None) -> None:
    """Take a box away and count the frames until it has left the surface."""
    conclude(run(frames, free_space, width), json_path)


if __name__ == "__main__":
    main()
