"""Frames to and from their messages."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidFrameError
from streamdgp.frames import DepthFrame, Frame, Intrinsics, PointFrame, RangeImageFrame
from streamdgp.v1 import common_pb2, frame_pb2
from streamdgp.wire._arrays import EncodingName, decode_array, encode_array

__all__ = ["frame_from_proto", "frame_to_proto", "unreadable_frame"]

_DEPTH_SCALES_M: Final = (0.001, 0.0002)  # millimetres; TUM's 5000 units per metre
_RANGE_SCALES_M: Final = (0.002, 0.001)
_DEFAULT_POINT_SCALE_M: Final = 0.001
_MAX_SOURCE_ID: Final = 256


def frame_to_proto(
    frame: Frame,
    *,
    sequence_number: int,
    source_id: str = "",
    source_crc32c: int = 0,
    encoding: EncodingName = "blosc",
) -> frame_pb2.Frame:
    """Return the message of a frame; ``frame_from_proto`` gives back the same measurement, bit for bit.

    Parameters
    ----------
    frame
        The frame.
    sequence_number
        Its number in the producer's stream, from 1.
    source_id, source_crc32c
        What it was made from, see ``frame.proto``.
    encoding
        How the measurement is encoded; ``png`` applies to depth in counts and to colour, the rest
        falls back to ``blosc``. Depth and ranges that are whole counts of a usual unit travel as
        uint16, anything else as float32.
    """
    message = frame_pb2.Frame(
        sequence_number=sequence_number, source_id=source_id[:_MAX_SOURCE_ID], source_crc32c=source_crc32c
    )
    message.world_t_sensor.matrix.extend(frame.world_T_sensor.reshape(-1).tolist())
    if isinstance(frame, DepthFrame):
        message.depth_image.CopyFrom(_depth_to_proto(frame, encoding))
    elif isinstance(frame, RangeImageFrame):
        message.range_image.CopyFrom(_range_image_to_proto(frame, encoding))
    else:
        message.point_cloud.CopyFrom(_points_to_proto(frame, encoding))
    return message


def unreadable_frame(*, sequence_number: int, source_id: str = "", source_crc32c: int = 0) -> frame_pb2.Frame:
    """Return the message that uses up a number whose frame the producer could not read."""
    return frame_pb2.Frame(
        sequence_number=sequence_number, source_id=source_id[:_MAX_SOURCE_ID], source_crc32c=source_crc32c
    )


def frame_from_proto(message: frame_pb2.Frame) -> Frame:
    """Return the frame of a message that came from outside.

    Raises
    ------
    InvalidFrameError
        No measurement or pose, a pose that is not rigid, arrays that are not what they declare, or
        anything else that makes the frame unusable.
    """
    kind = message.WhichOneof("measurement")
    if kind is None:
        raise InvalidFrameError(
            "a frame with a depth_image, a point_cloud or a range_image",
            "none (its producer could not read it)",
            "Set the measurement.",
        )
    if len(message.source_id) > _MAX_SOURCE_ID:
        raise InvalidFrameError(
            f"a source_id of at most {_MAX_SOURCE_ID} characters", str(len(message.source_id)), "Shorten it."
        )
    matrix = message.world_t_sensor.matrix
    if len(matrix) != 16:
        raise InvalidFrameError(
            "a pose world_t_sensor of 16 numbers, row-major", f"{len(matrix)} numbers", "Send a 4x4 matrix."
        )
    pose = np.array(matrix, dtype=np.float64).reshape(4, 4)
    if kind == "depth_image":
        return _depth_from_proto(message.depth_image, pose)
    if kind == "range_image":
        return _range_image_from_proto(message.range_image, pose)
    return _points_from_proto(message.point_cloud, pose)


def _to_counts(
    values_m: npt.NDArray[np.float32], scales_m: tuple[float, ...]
) -> tuple[npt.NDArray[np.uint16], float] | None:
    """Return values as uint16 counts if that loses nothing, with metres per count."""
    if not values_m.size or not np.isfinite(values_m).all() or values_m.min() < 0:
        return None
    for scale_m in scales_m:
        counts = np.rint(values_m.astype(np.float64) / scale_m)
        if counts.max() <= np.iinfo(np.uint16).max:
            counts16 = counts.astype(np.uint16)
            if np.array_equal(_from_counts(counts16, scale_m), values_m):
                return counts16, scale_m
    return None


def _from_counts(counts: npt.NDArray[Any], scale_m: float) -> npt.NDArray[np.float32]:
    # In double precision: equal to counts / units_per_metre in single precision for whole units per metre.
    return (counts * np.float64(scale_m)).astype(np.float32)


def _measured(
    array: common_pb2.Array,
    scale_m: float,
    default_scale_m: float,
    what: str,
    counts: str,
    ndims: tuple[int, ...],
    last_axis: int | None = None,
) -> npt.NDArray[np.float32]:
    values = decode_array(array, what, dtypes=(counts, "float32"), ndims=ndims, last_axis=last_axis)
    if values.dtype == np.float32:
        return values
    if not (math.isfinite(scale_m) and scale_m >= 0):
        raise InvalidFrameError(
            f"a finite, positive {what} scale in metres per count",
            str(scale_m),
            "For millimetres send 0.001.",
        )
    return _from_counts(values, scale_m or default_scale_m)


def _color(message: frame_pb2.DepthImage | frame_pb2.PointCloud, ndim: int) -> npt.NDArray[np.uint8] | None:
    if not message.HasField("color"):
        return None
    return decode_array(message.color, "colour", dtypes=("uint8",), ndims=(ndim,), last_axis=3)


def _ranges(
    message: frame_pb2.DepthImage | frame_pb2.PointCloud | frame_pb2.RangeImage,
) -> dict[str, Any]:
    """Return the usable range where the message sets it; the frame's own defaults apply else."""
    values = {}
    if message.HasField("min_range_m"):
        values["min_range_m"] = message.min_range_m
    if message.HasField("max_range_m"):
        values["max_range_m"] = message.max_range_m
    return values


def _depth_to_proto(frame: DepthFrame, encoding: EncodingName) -> frame_pb2.DepthImage:
    k = frame.intrinsics
    message = frame_pb2.DepthImage(
        intrinsics=frame_pb2.Intrinsics(fx=k.fx, fy=k.fy, cx=k.cx, cy=k.cy),
        min_range_m=frame.min_range_m,
        max_range_m=frame.max_range_m,
    )
    counts = _to_counts(frame.depth_m, _DEPTH_SCALES_M)
    if counts is None:
        message.depth.CopyFrom(encode_array(frame.depth_m, _no_png(encoding)))
    else:
        message.depth.CopyFrom(encode_array(counts[0], encoding))
        message.depth_scale_m = counts[1]
    if frame.color is not None:
        message.color.CopyFrom(encode_array(frame.color, encoding))
    return message


def _depth_from_proto(message: frame_pb2.DepthImage, pose: npt.NDArray[np.float64]) -> DepthFrame:
    if not message.HasField("intrinsics"):
        raise InvalidFrameError("a depth image with intrinsics", "none", "Send fx, fy, cx, cy in pixels.")
    k = message.intrinsics
    return DepthFrame(
        _measured(message.depth, message.depth_scale_m, _DEPTH_SCALES_M[0], "depth", "uint16", (2,)),
        Intrinsics(k.fx, k.fy, k.cx, k.cy),
        pose,
        color=_color(message, 3),
        **_ranges(message),
    )


def _points_to_proto(frame: PointFrame, encoding: EncodingName) -> frame_pb2.PointCloud:
    plain = _no_png(encoding)
    message = frame_pb2.PointCloud(
        points=encode_array(frame.points_m, plain),
        min_range_m=frame.min_range_m,
        max_range_m=frame.max_range_m,
        sensor_kind=frame_pb2.SENSOR_KIND_LIDAR if frame.is_lidar else frame_pb2.SENSOR_KIND_UNSPECIFIED,
    )
    if frame.has_origin:
        x, y, z = frame.sensor_origin_m
        message.sensor_origin_m.CopyFrom(common_pb2.Vector3(x=x, y=y, z=z))
    if frame.normals is not None:
        message.normals.CopyFrom(encode_array(frame.normals, plain))
    if frame.color is not None:
        message.color.CopyFrom(encode_array(frame.color, plain))
    return message


def _points_from_proto(message: frame_pb2.PointCloud, pose: npt.NDArray[np.float64]) -> PointFrame:
    points = _measured(
        message.points,
        message.point_scale_m,
        _DEFAULT_POINT_SCALE_M,
        "points",
        "int16",
        ndims=(2, 3),
        last_axis=3,
    )
    normals = None
    if message.HasField("normals"):
        normals = decode_array(
            message.normals, "normals", dtypes=("float32",), ndims=(points.ndim,), last_axis=3
        )
    origin = message.sensor_origin_m
    return PointFrame(
        points,
        pose,
        sensor_origin_m=(origin.x, origin.y, origin.z),
        has_origin=message.HasField("sensor_origin_m"),
        normals=normals,
        color=_color(message, points.ndim),
        is_lidar=message.sensor_kind == frame_pb2.SENSOR_KIND_LIDAR,
        **_ranges(message),
    )


def _range_image_to_proto(frame: RangeImageFrame, encoding: EncodingName) -> frame_pb2.RangeImage:
    plain = _no_png(encoding)
    message = frame_pb2.RangeImage(
        elevations_rad=encode_array(frame.elevations_rad, plain),
        azimuths_rad=encode_array(frame.azimuths_rad, plain),
        min_range_m=frame.min_range_m,
        max_range_m=frame.max_range_m,
    )
    counts = _to_counts(frame.ranges_m, _RANGE_SCALES_M)
    if counts is None:
        message.ranges.CopyFrom(encode_array(frame.ranges_m, plain))
    else:
        message.ranges.CopyFrom(encode_array(counts[0], encoding))
        message.range_scale_m = counts[1]
    return message


def _range_image_from_proto(message: frame_pb2.RangeImage, pose: npt.NDArray[np.float64]) -> RangeImageFrame:
    return RangeImageFrame(
        _measured(message.ranges, message.range_scale_m, _RANGE_SCALES_M[0], "ranges", "uint16", (2,)),
        decode_array(message.elevations_rad, "elevations", dtypes=("float32",), ndims=(1,)),
        decode_array(message.azimuths_rad, "azimuths", dtypes=("float32",), ndims=(1,)),
        pose,
        **_ranges(message),
    )


def _no_png(encoding: EncodingName) -> EncodingName:
    return "blosc" if encoding == "png" else encoding
