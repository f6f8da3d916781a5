"""Where the virtual sensor goes: around an object, about a room, down a street."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamdgp.simulate._worlds import ROOM_SIZE_M, STREET_LENGTH_M, street_height_m

__all__ = ["around_object", "down_street", "in_room"]

_Poses = list[npt.NDArray[np.float64]]
_GOLDEN_TURN = 0.618
_LIDAR_HEIGHT_M = 1.73


def _camera_looking(eye: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``world_T_camera`` (x right, y down, z forward) with z of the world up."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def _upright(position: npt.NDArray[np.float64], yaw: float, pitch: float = 0.0) -> npt.NDArray[np.float64]:
    """``world_T_sensor`` with x forward and z up; positive pitch looks up."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    lift = np.array([[cp, 0, -sp], [0, 1.0, 0], [sp, 0, cp]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ lift
    pose[:3, 3] = position
    return pose


def around_object(frames: int, size_m: float, sensor: str) -> _Poses:
    """Views from a sphere of radius 1.6 × size about the origin, spread evenly."""
    poses = []
    for i in range(frames):
        turn, z = 2 * np.pi * i * _GOLDEN_TURN, 0.8 * np.cos(np.pi * (i + 0.5) / frames)
        flat = np.sqrt(1 - z * z)
        eye = 1.6 * size_m * np.array([np.cos(turn) * flat, np.sin(turn) * flat, z])
        poses.append(
            _camera_looking(eye, np.zeros(3))
            if sensor == "depth"
            else _upright(eye, turn + np.pi, -np.arcsin(z))
        )
    return poses


def in_room(frames: int, sensor: str) -> _Poses:
    """Twice around: past the walls looking across the table, then over the table looking at the walls."""
    length, width, _ = ROOM_SIZE_M
    poses = []
    for i in range(frames):
        turn = 4 * np.pi * i / frames
        outwards = turn > 2 * np.pi
        reach = 0.4 if outwards else 1.0
        height = (1.5 if outwards else 1.35) + 0.12 * np.sin(7 * turn)
        position = np.array(
            [length / 2 + 1.75 * reach * np.cos(turn), width / 2 + 1.3 * reach * np.sin(turn), height]
        )
        if sensor == "lidar":
            poses.append(_upright(position, turn + np.pi / 2))
            continue
        yaw = turn + (0.0 if outwards else np.pi) + 0.6 * np.sin(5 * turn)
        pitch = -0.35 + 0.4 * np.sin(3.3 * turn)
        gaze = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        poses.append(_camera_looking(position, position + gaze))
    return poses


def down_street(frames: int, sensor: str) -> _Poses:
    """A drive of 55 m down the street, swaying, following the ground."""
    poses = []
    for i in range(frames):
        x = i * (STREET_LENGTH_M - 5.0) / frames
        position = np.array([x, 0.8 * np.sin(i / 9), float(street_height_m(x)) + _LIDAR_HEIGHT_M])
        yaw = 0.1 * np.sin(i / 6)
        pitch = float(np.arctan((street_height_m(x + 1) - street_height_m(x - 1)) / 2))
        pose = _upright(position, yaw, pitch)
        if sensor == "depth":
            side = np.array([0.0, 0.9 if i % 2 else -0.9, -0.25])
            pose = _camera_looking(position, position + pose[:3, 0] + side)
        poses.append(pose)
    return poses
