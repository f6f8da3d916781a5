"""What others make of the same frames: Open3D's TSDF and screened Poisson."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.frames import DepthFrame, PointFrame
from streamdgp.meshes import TriangleMesh

__all__ = ["Baseline", "fuse_tsdf", "fuse_tsdf_lidar", "screened_poisson"]

_BLOCK_VOXELS: Final = 8
_BYTES_PER_VOXEL: Final = 8  # float32 distance and weight
_TRUNCATION_VOXELS: Final = 4.0
_FACE_PIXELS: Final = 256
_FACE_NEAR_M: Final = 0.5


@dataclass(frozen=True)
class Baseline:
    """A baseline's mesh and what it cost; ``map_bytes`` is 0 where there is no map."""

    mesh: TriangleMesh
    frame_count: int
    seconds_per_frame: float
    extract_s: float
    map_bytes: int


def _from_legacy(mesh: Any) -> TriangleMesh:  # noqa: ANN401 - open3d has no types
    return TriangleMesh(np.array(mesh.vertices), np.array(mesh.triangles, np.int32))


class _Tsdf:
    """Open3D's voxel block grid, with its time counted."""

    def __init__(self, voxel_m: float, block_count: int, max_depth_m: float) -> None:
        import open3d as o3d

        if not voxel_m > 0:
            raise InvalidInputError("voxel_m > 0", str(voxel_m), "Give metres.")
        self._o3d: Any = o3d
        self._max_depth_m = float(max_depth_m)  # open3d takes no int here
        core = o3d.core
        self._grid: Any = o3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight"),
            (core.float32, core.float32),
            ((1,), (1,)),
            voxel_m,
            _BLOCK_VOXELS,
            block_count,
            core.Device("CPU:0"),
        )
        self._seconds = 0.0

    def integrate(
        self,
        depth_m: npt.NDArray[np.float32],
        camera: npt.NDArray[np.float64],
        world_T_camera: npt.NDArray[np.float64],
    ) -> None:
        tensor = self._o3d.core.Tensor
        started = time.perf_counter()
        image = self._o3d.t.geometry.Image(tensor(np.ascontiguousarray(depth_m)))
        k, camera_T_world = tensor(camera), tensor(np.linalg.inv(world_T_camera))
        limits = (1.0, self._max_depth_m, _TRUNCATION_VOXELS)
        blocks = self._grid.compute_unique_block_coordinates(image, k, camera_T_world, *limits)
        self._grid.integrate(blocks, image, k, camera_T_world, *limits)
        self._seconds += time.perf_counter() - started

    def finish(self, frame_count: int, weight_threshold: float) -> Baseline:
        if not frame_count:
            raise InvalidInputError("at least one frame to fuse", "none", "Check the scan.")
        started = time.perf_counter()
        mesh = _from_legacy(self._grid.extract_triangle_mesh(weight_threshold=weight_threshold).to_legacy())
        return Baseline(
            mesh,
            frame_count,
            self._seconds / frame_count,
            time.perf_counter() - started,
            int(self._grid.hashmap().size()) * _BLOCK_VOXELS**3 * _BYTES_PER_VOXEL,
        )


def _camera_matrix(frame: DepthFrame) -> npt.NDArray[np.float64]:
    k = frame.intrinsics
    return np.array([[k.fx, 0, k.cx], [0, k.fy, k.cy], [0, 0, 1.0]])


def fuse_tsdf(
    frames: Iterable[DepthFrame], voxel_m: float, *, max_depth_m: float = 4.0, weight_threshold: float = 3.0
) -> Baseline:
    """Open3D's TSDF of depth frames; voxels of less than ``weight_threshold`` frames give no surface.

    Raises
    ------
    InvalidInputError
        No frame, or ``voxel_m`` not above 0.
    """
    tsdf = _Tsdf(voxel_m, 80_000, max_depth_m)
    count = 0
    for frame in frames:
        tsdf.integrate(frame.depth_m, _camera_matrix(frame), frame.world_T_sensor)
        count += 1
    return tsdf.finish(count, weight_threshold)


def _pinhole_faces(
    points_m: npt.NDArray[np.float64],
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]]:
    """Four 90° depth images around the z axis: depth (256, 256) and ``sensor_T_camera``."""
    half = _FACE_PIXELS / 2
    for yaw in np.deg2rad([0, 90, 180, 270]):
        c, s = np.cos(yaw), np.sin(yaw)
        sensor_T_camera = np.eye(4)
        sensor_T_camera[:3, :3] = [[s, 0, c], [-c, 0, s], [0, -1, 0]]  # right, down, forward
        q = points_m @ sensor_T_camera[:3, :3]
        q = q[q[:, 2] > _FACE_NEAR_M]
        u = np.round(q[:, 0] / q[:, 2] * half + half).astype(int)
        v = np.round(q[:, 1] / q[:, 2] * half + half).astype(int)
        inside = (u >= 0) & (u < _FACE_PIXELS) & (v >= 0) & (v < _FACE_PIXELS)
        depth = np.full((_FACE_PIXELS, _FACE_PIXELS), np.inf, np.float32)
        np.minimum.at(depth, (v[inside], u[inside]), q[inside, 2].astype(np.float32))
        yield np.where(np.isfinite(depth), depth, np.float32(0)), sensor_T_camera


def fuse_tsdf_lidar(
    frames: Iterable[PointFrame], voxel_m: float, *, max_range_m: float = 40.0, weight_threshold: float = 1.0
) -> Baseline:
    """Open3D's TSDF of LiDAR scans, each turned into four pinhole depth images.

    Raises
    ------
    InvalidInputError
        No frame, or ``voxel_m`` not above 0.
    """
    half = _FACE_PIXELS / 2
    camera = np.array([[half, 0, half], [0, half, half], [0, 0, 1.0]])
    tsdf = _Tsdf(voxel_m, 200_000, max_range_m)
    count = 0
    for frame in frames:
        for depth_m, sensor_T_camera in _pinhole_faces(frame.points_m.reshape(-1, 3).astype(np.float64)):
            tsdf.integrate(depth_m, camera, frame.world_T_sensor @ sensor_T_camera)
        count += 1
    return tsdf.finish(count, weight_threshold)


def _world_points(
    frame: DepthFrame, max_depth_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """World points (N, 3) of a depth frame and the vectors to its camera."""
    k, pose = frame.intrinsics, frame.world_T_sensor
    v, u = np.nonzero((frame.depth_m > 0) & (frame.depth_m < max_depth_m))
    z = frame.depth_m[v, u].astype(np.float64)
    camera = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=-1)
    points = camera @ pose[:3, :3].T + pose[:3, 3]
    return points, pose[:3, 3] - points


def screened_poisson(
    frames: Iterable[DepthFrame],
    *,
    depth: int = 8,
    voxel_m: float = 0.004,
    max_depth_m: float = 4.0,
    threads: int = 2,
) -> Baseline:
    """Screened Poisson of the frames' points, thinned to one per voxel, oriented to their cameras.

    Raises
    ------
    InvalidInputError
        No frame with a measurement.
    """
    import open3d as o3d

    parts = [_world_points(frame, max_depth_m) for frame in frames]
    if not sum(len(points) for points, _ in parts):
        raise InvalidInputError("frames with measurements", f"none in {len(parts)} frames", "Check the scan.")
    cloud: Any = o3d.geometry.PointCloud(
        o3d.utility.Vector3dVector(np.concatenate([points for points, _ in parts]))
    )
    cloud.normals = o3d.utility.Vector3dVector(np.concatenate([views for _, views in parts]))
    cloud = cloud.voxel_down_sample(voxel_m)
    view = np.array(cloud.normals)
    started = time.perf_counter()
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(voxel_m * 4, 30))
    normals = np.asarray(cloud.normals)
    away = (normals * view).sum(axis=1, keepdims=True) < 0
    cloud.normals = o3d.utility.Vector3dVector(np.where(away, -normals, normals))
    mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=threads)
    return Baseline(_from_legacy(mesh), len(parts), 0.0, time.perf_counter() - started, 0)
