"""A scan as a list of frames that are read one at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt

from streamdgp.errors import DatasetError, InvalidFrameError
from streamdgp.frames import Frame

__all__ = ["Dataset", "FrameSource", "fingerprint"]


class FrameSource(Protocol):
    """One frame on disk: its name, its files, its pose and settings as bytes, and how to read it."""

    @property
    def name(self) -> str:
        """Name of the frame, unique in the scan."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the measurement."""

    @property
    def fingerprint(self) -> bytes:
        """Pose, calibration and options: whatever else decides what the frame holds."""

    def load(self) -> Frame:
        """Read the frame."""


def fingerprint(world_T_sensor: npt.NDArray[np.float64], *settings: float) -> bytes:
    """Pose and settings as bytes for the checksum."""
    pose = np.ascontiguousarray(world_T_sensor, dtype="<f8").tobytes()
    return pose + struct.pack(f"<{len(settings)}d", *settings)


@dataclass(frozen=True)
class Dataset:
    """A scan: frames in the order they were taken.

    Parameters
    ----------
    format
        Name of the format, one of ``FORMATS``.
    path
        What was opened.
    frames
        One source per frame.
    skipped
        Why measurements found on disk are no frames (for example: no pose within 20 ms).
    """

    format: str
    path: Path
    frames: Sequence[FrameSource]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self.read(index)

    @property
    def frame_names(self) -> list[str]:
        """Names of the frames, in order; unique."""
        return [frame.name for frame in self.frames]

    def read(self, index: int) -> Frame:
        """Read one frame.

        Raises
        ------
        DatasetError
            A file is missing, truncated, or not what its format says.
        InvalidFrameError
            The file is sound but the frame is unusable, for example its pose is not rigid.
        """
        source = self.frames[index]
        try:
            return source.load()
        except InvalidFrameError as error:
            raise InvalidFrameError(
                f"{source.files[0].name}: {error.wanted}", error.got, error.remedy, metadata=error.metadata
            ) from error

    def checksum(self, index: int) -> int:
        """crc32c (32 bits) of the frame's files, pose, calibration and options.

        Raises
        ------
        DatasetError
            A file cannot be read.
        """
        source = self.frames[index]
        crc = google_crc32c.value(source.fingerprint)
        for path in source.files:
            try:
                crc = google_crc32c.extend(crc, path.read_bytes())
            except OSError as error:
                raise DatasetError(f"a readable file {path}", str(error), "Restore it.") from error
        return int(crc)

    def subset(self, every: int = 1, limit: int | None = None) -> Dataset:
        """Every n-th frame, and at most ``limit`` of those.

        Raises
        ------
        DatasetError
            ``every`` or ``limit`` below 1.
        """
        if every < 1 or (limit is not None and limit < 1):
            raise DatasetError(
                "every >= 1 and limit >= 1", f"every={every}, limit={limit}", "Give larger numbers."
            )
        return Dataset(self.format, self.path, self.frames[::every][:limit], self.skipped)
