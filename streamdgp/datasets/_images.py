"""Depth and colour images, decoded strictly."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from streamdgp.errors import DatasetError
from streamdgp.frames.types import MAX_SAMPLES_PER_FRAME

__all__ = ["read_color", "read_depth_counts"]

_PNG_START = b"\x89PNG"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_TAIL_BYTES = 64


def _decode(path: Path, kind: str) -> Image.Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{kind} {path}", str(error), "Restore it.") from error
    # Pillow forgives a PNG that ends early as long as its pixels decode.
    if data.startswith(_PNG_START) and _PNG_END not in data[-_PNG_TAIL_BYTES:]:
        raise DatasetError(f"{kind} {path} that decodes", "a truncated file (no IEND)", "Copy it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # checked below, against our limit
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_SAMPLES_PER_FRAME:
            raise DatasetError(
                f"{kind} of at most {MAX_SAMPLES_PER_FRAME} pixels in {path}",
                f"{image.width}x{image.height}",
                "Is it a depth image?",
            )
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{kind} {path} that decodes", f"a broken or truncated file ({error})", "Copy it again."
        ) from error
    return image


def read_depth_counts(path: Path) -> npt.NDArray[np.uint16]:
    """Sensor counts (H, W) uint16 of a 16-bit grey PNG.

    Raises
    ------
    DatasetError
        Missing, truncated, or not one channel of 16 bits.
    """
    image = _decode(path, "a depth image")
    if not (image.mode.startswith("I;16") or image.mode == "I"):
        raise DatasetError(
            f"a 16-bit grey depth image {path}", f"mode {image.mode}", "Store counts, not a colour map."
        )
    counts = np.asarray(image)
    if counts.min() < 0 or counts.max() > np.iinfo(np.uint16).max:
        raise DatasetError(f"16-bit counts in {path}", f"{counts.min()} to {counts.max()}", "Store uint16.")
    return counts.astype(np.uint16)


def read_color(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Colour (H, W, 3) uint8, which must have the depth image's ``shape``.

    Raises
    ------
    DatasetError
        Missing, truncated, or of another size.
    """
    color = np.asarray(_decode(path, "a colour image").convert("RGB"))
    if color.shape[:2] != shape:
        raise DatasetError(
            f"colour registered to depth, (rows, columns) = {shape}, in {path}",
            f"{color.shape[:2]}",
            "Leave colour out.",
        )
    return color
