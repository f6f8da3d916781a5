"""Pictures of meshes without a GPU or a display: rays, Lambert's law, labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from streamdgp.errors import InvalidInputError
from streamdgp.meshes._files import MeshLike
from streamdgp.meshes._rays import RayScene

__all__ = ["render_png"]

_BACKGROUND = np.array([250.0, 250.0, 250.0])
_SURFACE = np.array([202.0, 199.0, 190.0])
_BACK_SIDE = np.array([210.0, 120.0, 95.0])
_LABEL_HEIGHT = 30


def render_png(
    mesh: MeshLike | Mapping[str, MeshLike],
    path: str | Path,
    *,
    size: tuple[int, int] = (640, 480),
    eye_m: tuple[float, float, float] | None = None,
    target_m: tuple[float, float, float] | None = None,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
    field_of_view_deg: float = 45.0,
    supersampling: int = 2,
) -> None:
    """Write a shaded picture of a mesh, or of several from one viewpoint side by side.

    Front sides are grey, back sides reddish: an inside-out surface shows.

    Parameters
    ----------
    mesh
        One mesh, or meshes by the label to write above each.
    path
        The picture to write; PNG.
    size
        Width and height in pixels of one view.
    eye_m, target_m
        Camera and the point it looks at. Default: the middle of the first mesh's vertices, seen
        obliquely from far enough to hold it.
    up
        Upward direction in the picture.
    field_of_view_deg
        Across the width of a view.
    supersampling
        Rays per pixel and side.

    Raises
    ------
    InvalidInputError
        No mesh, or one without a triangle.
    """
    views = dict(mesh) if isinstance(mesh, Mapping) else {"": mesh}
    if not views or not all(len(view.triangles) for view in views.values()):
        empty = ", ".join(repr(label) for label, view in views.items() if not len(view.triangles))
        raise InvalidInputError(
            "meshes with triangles to draw", f"none in {empty or 'an empty list'}", "Leave it out."
        )
    eye, target = _viewpoint(np.asarray(next(iter(views.values())).vertices, np.float64), eye_m, target_m, up)
    rays = _rays(eye, target, np.asarray(up, np.float64), size, np.deg2rad(field_of_view_deg), supersampling)
    top = _LABEL_HEIGHT if any(views) else 0
    sheet = Image.new("RGB", (size[0] * len(views), size[1] + top), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for k, (label, view) in enumerate(views.items()):
        shaded = _shade(view, rays)
        height, width = size[1], size[0]
        mean = shaded.reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
        sheet.paste(Image.fromarray(mean.round().astype(np.uint8)), (k * width, top))
        if label:
            draw.text((k * width + 8, 6), label, fill=(30, 30, 30), font=ImageFont.load_default(16))
    sheet.save(path, format="PNG")


def _viewpoint(
    vertices: npt.NDArray[np.float64],
    eye_m: tuple[float, float, float] | None,
    target_m: tuple[float, float, float] | None,
    up: tuple[float, float, float],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    target = (low + high) / 2 if target_m is None else np.asarray(target_m, np.float64)
    if eye_m is not None:
        return np.asarray(eye_m, np.float64), target
    axis = np.asarray(up, np.float64) / np.linalg.norm(up)
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    side /= np.linalg.norm(side)
    direction = 0.75 * side + 0.85 * np.cross(axis, side) + 0.55 * axis
    return target + 1.25 * np.linalg.norm(high - low) * direction / np.linalg.norm(direction), target


def _rays(
    eye: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    up: npt.NDArray[np.float64],
    size: tuple[int, int],
    field_of_view_rad: float,
    supersampling: int,
) -> npt.NDArray[np.float64]:
    """Rays (H, W, 6): origin and unit direction."""
    width, height = size[0] * supersampling, size[1] * supersampling
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    step = 2 * np.tan(field_of_view_rad / 2) / width
    u = (np.arange(width) + 0.5 - width / 2) * step
    v = (np.arange(height) + 0.5 - height / 2) * step
    directions = forward + u[None, :, None] * right + v[:, None, None] * down
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.concatenate([np.broadcast_to(eye, directions.shape), directions], axis=-1)


def _shade(mesh: MeshLike, rays: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Colours (H, W, 3), 0 to 255: Lambert's law with a light beside the camera and some from above."""
    hit = RayScene(mesh).cast(rays[..., :3], rays[..., 3:])
    seen = np.isfinite(hit.t)
    normals = hit.normals.astype(np.float64)
    given = getattr(mesh, "normals", None)
    if given is not None:
        corners = np.asarray(mesh.triangles)[hit.triangles[seen]]
        uv = hit.uvs[seen]
        weights = np.column_stack([1 - uv.sum(axis=1), uv])
        smooth = (np.asarray(given, np.float64)[corners] * weights[..., None]).sum(axis=1)
        normals[seen] = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
    view = -rays[..., 3:]
    facing = (normals * view).sum(axis=-1)
    towards = normals * np.where(facing < 0, -1.0, 1.0)[..., None]
    middle = view[view.shape[0] // 2, view.shape[1] // 2]
    light = middle + np.array([0.35, -0.25, 0.45])
    light /= np.linalg.norm(light)
    brightness = 0.22 + 0.78 * np.clip(towards @ light, 0, 1)
    base = np.where((facing < 0)[..., None], _BACK_SIDE, _SURFACE)
    return np.where(seen[..., None], base * brightness[..., None] * 1.12, _BACKGROUND).clip(0, 255)
