"""Writing a virtual scan in the folder formats of real ones, with its truth."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from streamdgp.errors import AlreadyExistsError, InvalidInputError, StorageError
from streamdgp.meshes import MeshLike, RayScene, TriangleMesh, read_mesh, write_mesh
from streamdgp.simulate._paths import around_object, down_street, in_room
from streamdgp.simulate._sensors import DepthSensor, LidarSensor
from streamdgp.simulate._worlds import fit_to_size, make_room, make_street

__all__ = ["ScanSummary", "simulate_scan"]


@dataclass(frozen=True)
class ScanSummary:
    """What was written: the folder, its format, and the files that hold the truth."""

    path: Path
    format: str
    frame_count: int
    truth: Path
    seen: Path


def simulate_scan(
    world: str | Path | MeshLike,
    out: str | Path,
    sensor: str | DepthSensor | LidarSensor | None = None,
    frames: int = 60,
    seed: int = 7,
    *,
    size_m: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> ScanSummary:
    """Scan a world with a virtual sensor into a new folder. Same arguments, same bytes.

    Parameters
    ----------
    world
        ``room``, ``street``, a mesh file, or a mesh. A mesh is centred and scaled to ``size_m``.
    out
        New or empty folder: depth images as 7scenes, LiDAR scans as kitti, and ``truth.ply``,
        ``seen.npy`` (true points that rays reached, (K, 3) float32 world) and ``simulation.json``.
    sensor
        ``depth``, ``lidar``, or a sensor. Default: lidar in the street, depth elsewhere.
    frames, seed
        How many views; what noise, room and street.
    size_m
        Longest side of a scanned mesh, metres.
    progress
        Called with (frames done, frames) after each frame.

    Raises
    ------
    DatasetError
        The mesh cannot be read.
    InvalidInputError
        An unknown sensor, or less than one frame.
    AlreadyExistsError
        The folder holds something already.
    StorageError
        The folder cannot be written.
    """
    if frames < 1:
        raise InvalidInputError("frames >= 1", str(frames), "Give a larger number.")
    device = _sensor(sensor, world)
    kind = "depth" if isinstance(device, DepthSensor) else "lidar"
    truth, poses = _world(world, size_m, frames, seed, kind)
    out = Path(out)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise AlreadyExistsError(
                f"a new or empty folder {out}", "one with files", "Name another, or remove it."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_mesh(out / "truth.ply", truth)
        scene, rng = RayScene(truth), np.random.default_rng(seed)
        if isinstance(device, DepthSensor):
            seen = _write_depth(out, scene, device, poses, rng, progress)
        else:
            seen = _write_lidar(out, scene, device, poses, rng, progress)
        np.save(out / "seen.npy", np.concatenate(seen))
        named = world if isinstance(world, str | Path) else "mesh"
        note: dict[str, Any] = {
            "world": Path(named).name,
            "seed": seed,
            "sensor": kind,
            **dataclasses.asdict(device),
        }
        (out / "simulation.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"a writable folder {out}", str(error), "Check space and permissions.") from error
    format_name = "7scenes" if kind == "depth" else "kitti"
    return ScanSummary(out, format_name, frames, out / "truth.ply", out / "seen.npy")


def _sensor(
    sensor: str | DepthSensor | LidarSensor | None, world: str | Path | MeshLike
) -> DepthSensor | LidarSensor:
    if sensor is None:
        return LidarSensor() if world == "street" else DepthSensor()
    if isinstance(sensor, DepthSensor | LidarSensor):
        return sensor
    if sensor not in ("depth", "lidar"):
        raise InvalidInputError("a sensor: depth or lidar", repr(sensor), "Choose one of them.")
    return DepthSensor() if sensor == "depth" else LidarSensor()


def _world(
    world: str | Path | MeshLike, size_m: float, frames: int, seed: int, kind: str
) -> tuple[TriangleMesh, list[npt.NDArray[np.float64]]]:
    if world == "room":
        return make_room(seed), in_room(frames, kind)
    if world == "street":
        return make_street(seed), down_street(frames, kind)
    mesh = read_mesh(world) if isinstance(world, str | Path) else world
    return fit_to_size(mesh, size_m), around_object(frames, size_m, kind)


def _write_depth(
    out: Path,
    scene: RayScene,
    sensor: DepthSensor,
    poses: list[npt.NDArray[np.float64]],
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> list[npt.NDArray[np.float32]]:
    np.savetxt(out / "camera-intrinsics.txt", sensor.camera_matrix())
    everything = []
    for i, world_T_camera in enumerate(poses):
        depth_m, seen = sensor.measure(scene, world_T_camera, rng)
        millimetres = np.clip(np.round(depth_m * 1000), 0, 65534).astype(np.uint16)
        png = io.BytesIO()
        Image.fromarray(millimetres).save(png, format="PNG", compress_level=1)
        (out / f"frame-{i:06d}.depth.png").write_bytes(png.getvalue())
        np.savetxt(out / f"frame-{i:06d}.pose.txt", world_T_camera)
        everything.append(seen)
        if progress:
            progress(i + 1, len(poses))
    return everything


def _write_lidar(
    out: Path,
    scene: RayScene,
    sensor: LidarSensor,
    poses: list[npt.NDArray[np.float64]],
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> list[npt.NDArray[np.float32]]:
    (out / "velodyne").mkdir()
    everything = []
    for i, world_T_lidar in enumerate(poses):
        points, seen = sensor.measure(scene, world_T_lidar, rng)
        points.astype("<f4").tofile(out / "velodyne" / f"{i:06d}.bin")
        everything.append(seen)
        if progress:
            progress(i + 1, len(poses))
    # KITTI's poses are those of camera 0 and Tr maps LiDAR to camera: an identity Tr makes both one.
    np.savetxt(out / "poses.txt", [pose[:3].reshape(-1) for pose in poses])
    (out / "calib.txt").write_text("Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n", encoding="utf-8")
    return everything
