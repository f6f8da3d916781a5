"""Ours and theirs side by side, coloured by error: python -m benchmarks.pictures.

A cow and a machine part scanned virtually, a simulated street, and a real kitchen. Where the truth is known,
every pixel shows how far the surface is from it, on one scale for all views of a picture; the kitchen, whose
truth nobody knows, is shaded. The pictures go to docs/pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.inputs import run_bench, shared_data
from benchmarks.methods import Job, run_job
from benchmarks.object import make_scan
from streamdgp.meshes import MeshLike, RayScene, read_mesh
from streamdgp.meshes._render import _rays, _shade, _viewpoint

MAX_BYTES = 300_000
NAMES = ("cow", "fandisk", "kitchen", "street")
# From none to the end of the scale, readable without telling red from green.
_SCALE = np.array(
    [
        *([233, 236, 239], [120, 180, 214], [49, 104, 142], [53, 183, 121]),
        *([253, 231, 37], [240, 110, 20], [160, 10, 30]),
    ],
    np.float64,
)
_HEADER, _FOOTER, _GAP = 34, 46, 6
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class View:
    """Where a picture is taken from; None as for an object."""

    eye_m: tuple[float, float, float] | None = None
    target_m: tuple[float, float, float] | None = None
    size: tuple[int, int] = (400, 300)
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    field_of_view_deg: float = 32.0


# Seen from where their features are; +y is up in these meshes.
VIEWS = {
    "cow": View((-1.0, 0.45, 1.35), (0.0, -0.02, 0.0), up=(0.0, 1.0, 0.0), field_of_view_deg=36.0),
    "fandisk": View((-1.0, 0.8, -1.3), (0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0), field_of_view_deg=52.0),
}


def error_color(errors_m: npt.NDArray[np.float64], worst_m: float) -> npt.NDArray[np.float64]:
    """Colours (..., 3), 0 to 255; ``worst_m`` and beyond is the end of the scale."""
    at = np.clip(errors_m / worst_m, 0, 1) * (len(_SCALE) - 1)
    low = np.minimum(at.astype(int), len(_SCALE) - 2)
    share = (at - low)[..., None]
    return np.asarray((1 - share) * _SCALE[low] + share * _SCALE[low + 1])


def picture(
    meshes: Mapping[str, MeshLike],
    path: Path,
    view: View,
    truth: MeshLike | None = None,
    worst_m: float = 0.004,
) -> None:
    """Draw meshes side by side; with a truth, coloured by their distance to it and with a scale below."""
    first = truth if truth is not None else next(iter(meshes.values()))
    eye, target = _viewpoint(np.asarray(first.vertices, np.float64), view.eye_m, view.target_m, view.up)
    fov = np.deg2rad(view.field_of_view_deg)
    rays = _rays(eye, target, np.asarray(view.up, np.float64), view.size, fov, _SUPERSAMPLING)
    width, height = view.size
    footer = _FOOTER if truth is not None else 0
    sheet = Image.new(
        "RGB", (len(meshes) * (width + _GAP) - _GAP, _HEADER + height + footer), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    reference = None if truth is None else RayScene(truth)
    for k, (label, mesh) in enumerate(meshes.items()):
        shaded = _shade(mesh, rays)
        if reference is not None and mesh is not truth:
            shaded = _colored(mesh, rays, shaded, reference, worst_m)
        mean = shaded.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, 3).mean(axis=(1, 3))
        sheet.paste(
            Image.fromarray(mean.round().clip(0, 255).astype(np.uint8)), (k * (width + _GAP), _HEADER)
        )
        draw.text((k * (width + _GAP) + 8, 8), label, fill=(30, 30, 30), font=font)
    if reference is not None:
        _draw_scale(sheet, worst_m, font)
    sheet.save(path, format="PNG", optimize=True)
    for colors in (256, 128, 64):
        if path.stat().st_size <= MAX_BYTES:
            break
        palette = None if truth is None else _palette()
        few = sheet.quantize(colors, palette=palette, dither=Image.Dither.NONE)
        few.save(path, format="PNG", optimize=True)


def _palette() -> Image.Image:
    """Colours of the scale in a few lights, and greys: no palette made from the picture keeps rare reds."""
    steps = error_color(np.linspace(0, 1, 26), 1.0)
    lit = (np.linspace(0.55, 1.0, 7)[:, None, None] * steps).reshape(-1, 3)
    grey = np.linspace(0.15, 1.24, 60)[:, None] * np.array([202.0, 199.0, 190.0])
    plain = np.array(
        [[255.0] * 3, [250.0] * 3, [235.0] * 3, [30.0] * 3, [140.0, 80.0, 63.0], [210.0, 120.0, 95.0]]
    )
    colors = np.concatenate([lit, grey, plain]).round().clip(0, 255).astype(np.uint8)
    image = Image.new("P", (1, 1))
    image.putpalette(colors.tobytes())
    return image


def _colored(
    mesh: MeshLike,
    rays: npt.NDArray[np.float64],
    shaded: npt.NDArray[np.float64],
    reference: RayScene,
    worst_m: float,
) -> npt.NDArray[np.float64]:
    """The error's colour in the light of the shading."""
    t = RayScene(mesh).cast(rays[..., :3], rays[..., 3:]).t.astype(np.float64)
    seen = np.isfinite(t)
    points = rays[seen][:, :3] + rays[seen][:, 3:] * t[seen, None]
    light = shaded[seen].max(axis=-1, keepdims=True) / 226.0
    colored = shaded.copy()
    colored[seen] = error_color(reference.closest(points)[0], worst_m) * (0.45 + 0.55 * light)
    return colored


def _draw_scale(
    sheet: Image.Image, worst_m: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> None:
    """A colour bar with its ends and middle, below the views."""
    width = min(420, sheet.width - 200)
    left, top = (sheet.width - width) // 2, sheet.height - _FOOTER + 8
    bar = error_color(np.linspace(0, worst_m, width), worst_m)[None].repeat(12, axis=0)
    sheet.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, top))
    draw = ImageDraw.Draw(sheet)
    unit, scale = ("mm", 1e3) if worst_m < 0.05 else ("cm", 1e2)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{scale * share * worst_m:g}{' ' + unit + ' and more' if share == 1 else ''}"
        draw.text((left + share * width - 4, top + 14), text, fill=(30, 30, 30), font=font)
    text = "distance to the truth"
    draw.text((left - draw.textlength(text, font) - 12, top - 3), text, fill=(30, 30, 30), font=font)


def draw_object(name: str, out: Path, scratch: Path, frames: int) -> None:
    """A shared mesh, scanned."""
    scan = make_scan(name, scratch / "scan", frames)
    jobs = (
        Job("streamdgp", str(scan.folder)),
        Job("tsdf", str(scan.folder), 0.004),
        Job("poisson", str(scan.folder), 0.004),
    )
    picture({"truth": scan.truth, **_meshes(jobs, scratch)}, out, VIEWS[name], scan.truth, 0.003)


def draw_street(out: Path, scratch: Path, frames: int) -> None:
    """The virtual drive, from above the road."""
    run_bench("street", scratch / "scan", "--frames", str(frames))
    scan = str(scratch / "scan")
    jobs = (
        Job("streamdgp", scan),
        Job("tsdf", scan, 0.1),
        Job("poisson", scan, 0.1, depth=10, trim_vox=3.0),
    )
    view = View((-4.0, -0.5, 6.5), (12.0, 0.0, 0.6), (520, 330), field_of_view_deg=62.0)
    truth = read_mesh(scratch / "scan" / "truth.ply")
    picture(_meshes(jobs, scratch), out, view, truth, 0.15)


def draw_kitchen(out: Path, scratch: Path, frames: int) -> None:
    """The real room, from where its camera was and a little behind."""
    folder = shared_data("rgbd-kitchen")
    pose = np.loadtxt(folder / "frame-000000.pose.txt")
    eye = pose[:3, 3] - 0.5 * pose[:3, 2]
    target = pose[:3, 3] + 2.0 * pose[:3, 2] - 0.3 * pose[:3, 1]
    up = -pose[:3, 1]
    common: dict[str, Any] = {"every": 5, "limit": frames, "max_range_m": 4.0}
    jobs = (Job("streamdgp", str(folder), **common), Job("tsdf", str(folder), 0.01, **common))
    view = View(tuple(eye), tuple(target), (560, 380), tuple(up), 60.0)
    picture(_meshes(jobs, scratch), out, view)


def _meshes(jobs: Sequence[Job], scratch: Path) -> dict[str, MeshLike]:
    return {job.label: run_job(job, scratch / f"{k}.ply").mesh for k, job in enumerate(jobs)}


@click.command(epilog="Example: python -m benchmarks.pictures --only cow --out /tmp")
@click.option("--only", default=",".join(NAMES), show_default=True, help="Which of them, by commas.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs/pictures"),
    show_default=True,
)
@click.option("--object-frames", default=60, show_default=True, help="Frames of a scanned mesh.")
@click.option("--street-frames", default=40, show_default=True, help="Scans of the drive.")
@click.option("--kitchen-frames", default=300, show_default=True, help="Of the first N, every 5th goes in.")
def main(only: str, out: Path, object_frames: int, street_frames: int, kitchen_frames: int) -> None:
    """Draw ours beside theirs."""
    names = only.split(",")
    unknown = set(names) - set(NAMES)
    if unknown:
        raise click.BadParameter(f"no picture {', '.join(sorted(unknown))}", param_hint="--only")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = out / f"{name}.png"
        with tempfile.TemporaryDirectory(prefix="streamdgp-pictures-") as scratch:
            if name == "street":
                draw_street(path, Path(scratch), street_frames)
            elif name == "kitchen":
                draw_kitchen(path, Path(scratch), kitchen_frames)
            else:
                draw_object(name, path, Path(scratch), object_frames)
        size = path.stat().st_size
        click.echo(f"{path}: {size} bytes")
        if size > MAX_BYTES:
            raise click.ClickException(f"{path} is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
