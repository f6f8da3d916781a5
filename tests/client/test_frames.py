"""Frames, parts, settings, names and errors over the wire."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from streamdgp import errors
from streamdgp.config import SceneConfig
from streamdgp.errors import (
    InvalidConfigError,
    InvalidFrameError,
    InvalidInputError,
    ServerUnavailableError,
    StreamdgpError,
)
from streamdgp.frames import DepthFrame, Frame, Intrinsics, PointFrame, RangeImageFrame
from streamdgp.v1 import common_pb2, frame_pb2, ingest_service_pb2, scene_service_pb2
from streamdgp.wire import (
    BATCH_BYTES,
    PART_BYTES,
    PartAssembler,
    abort_arguments,
    config_from_proto,
    config_to_proto,
    encode_array,
    error_from_rejection,
    error_from_rpc,
    frame_from_proto,
    frame_to_proto,
    is_retryable,
    pack_requests,
    parse_scene_name,
    rejection_from_error,
    scene_resource_name,
    unreadable_frame,
)
from streamdgp.wire._arrays import EncodingName

RNG = np.random.default_rng(7)
POSE = np.array([[0.0, -1, 0, 3], [1, 0, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
K = Intrinsics(500.0, 501.0, 319.5, 239.5)
COUNTS = RNG.integers(0, 65536, (48, 64)).astype(np.uint16)
COLOR = RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8)
HOLES = np.where(RNG.random((48, 64)) < 0.2, np.nan, 1.5).astype(np.float32)
GRID = RNG.normal(size=(9, 7, 3)).astype(np.float32)
GRID[2, 3] = np.nan
FRAMES: dict[str, Frame] = {
    "depth in millimetres": DepthFrame(COUNTS.astype(np.float32) / np.float32(1000), K, POSE, 0.2, 7.0),
    "depth in fifths of millimetres": DepthFrame(COUNTS.astype(np.float32) / np.float32(5000), K, POSE),
    "depth in metres": DepthFrame(RNG.random((48, 64)).astype(np.float32), K, POSE, 0.0, 4.0, COLOR),
    "depth with holes": DepthFrame(HOLES, K, POSE),
    "points": PointFrame(RNG.normal(size=(100, 3)).astype(np.float32), POSE, (1.0, 2.0, 3.0), is_lidar=True),
    "grid": PointFrame(GRID, POSE, normals=GRID, color=np.zeros((9, 7, 3), np.uint8), max_range_m=9.0),
    "no origin": PointFrame(GRID[0], POSE, has_origin=False, normals=GRID[0]),
    "no points": PointFrame(np.empty((0, 3), np.float32), POSE),
    "range image": RangeImageFrame(
        RNG.random((4, 6)).astype(np.float32),
        np.linspace(-0.3, 0.1, 4, dtype=np.float32),
        np.linspace(-3, 3, 6, dtype=np.float32),
        POSE,
        1.0,
        80.0,
    ),
    "range image in counts": RangeImageFrame(
        (RNG.integers(0, 40000, (4, 6)) * 0.002).astype(np.float32),
        np.zeros(4, np.float32),
        np.zeros(6, np.float32),
        POSE,
    ),
}


def assert_same(one: Frame, other: Frame) -> None:
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            assert getattr(other, name).dtype == value.dtype
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)
        else:
            assert getattr(other, name) == value, name


@pytest.mark.parametrize("encoding", ["raw", "blosc", "png"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_comes_back_bit_for_bit(name: str, encoding: EncodingName) -> None:
    message = frame_to_proto(
        FRAMES[name], sequence_number=3, source_id="f3", source_crc32c=2**32 - 1, encoding=encoding
    )
    message = frame_pb2.Frame.FromString(message.SerializeToString())
    assert (message.sequence_number, message.source_id, message.source_crc32c) == (3, "f3", 2**32 - 1)
    assert_same(FRAMES[name], frame_from_proto(message))


@pytest.mark.parametrize("units_per_m", [1000, 5000])
def test_every_depth_count_is_sent_as_a_count_and_means_the_same(units_per_m: int) -> None:
    counts = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    frame = DepthFrame(counts.astype(np.float32) / np.float32(units_per_m), K, POSE)
    message = frame_to_proto(frame, sequence_number=1)
    assert message.depth_image.depth.dtype == common_pb2.DATA_TYPE_UINT16
    assert_same(frame, frame_from_proto(message))


def test_counts_without_a_scale_are_the_documented_units() -> None:
    message = frame_to_proto(FRAMES["depth in millimetres"], sequence_number=1)
    message.depth_image.depth_scale_m = 0
    message.depth_image.ClearField("min_range_m")
    message.depth_image.ClearField("max_range_m")
    frame = frame_from_proto(message)
    assert isinstance(frame, DepthFrame)
    np.testing.assert_allclose(frame.depth_m, COUNTS / 1000, rtol=1e-6)
    assert (frame.min_range_m, frame.max_range_m) == (0.1, 10.0)
    points = frame_to_proto(FRAMES["points"], sequence_number=1)
    points.point_cloud.points.CopyFrom(encode_array(np.array([[1000, -2000, 3]], np.int16)))
    cloud = frame_from_proto(points)
    assert isinstance(cloud, PointFrame)
    np.testing.assert_allclose(cloud.points_m, [[1.0, -2.0, 0.003]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda m: m.ClearField("depth_image"), "a frame with a depth_image"),
        (lambda m: m.ClearField("world_t_sensor"), "16 numbers, row-major; got 0 numbers"),
        (lambda m: m.world_t_sensor.matrix.append(1.0), "got 17 numbers"),
        (lambda m: m.world_t_sensor.matrix.__setitem__(0, 0.5), r"R @ R.T off by 0\.5"),
        (lambda m: m.depth_image.ClearField("intrinsics"), "with intrinsics"),
        (lambda m: setattr(m.depth_image.intrinsics, "fx", 0.0), "positive focal lengths; got fx=0.0"),
        (lambda m: setattr(m.depth_image, "depth_scale_m", -1.0), "positive depth scale"),
        (lambda m: setattr(m.depth_image, "depth_scale_m", float("nan")), "positive depth scale"),
        (lambda m: setattr(m.depth_image, "min_range_m", 50.0), "0 <= min_range_m < max_range_m"),
        (lambda m: setattr(m, "source_id", "x" * 300), "at most 256 characters"),
        (
            lambda m: m.depth_image.color.CopyFrom(encode_array(np.zeros((2, 2, 3), np.uint8))),
            r"shape \(48, 64, 3\)",
        ),
        (lambda m: m.depth_image.depth.shape.append(1), "depth of 2 axes"),
    ],
)
def test_an_unusable_frame_says_why(change: Any, wanted: str) -> None:
    message = frame_to_proto(FRAMES["depth in millimetres"], sequence_number=1)
    change(message)
    with pytest.raises(InvalidFrameError, match=wanted) as caught:
        frame_from_proto(message)
    assert caught.value.got
    assert caught.value.remedy


def test_a_frame_that_its_producer_could_not_read_is_rejected() -> None:
    with pytest.raises(InvalidFrameError, match="could not read it"):
        frame_from_proto(unreadable_frame(sequence_number=1, source_id="x"))


def small(number: int, size: int) -> frame_pb2.Frame:
    return frame_pb2.Frame(sequence_number=number, source_id="x" * size)


@given(
    sizes=st.lists(st.sampled_from((0, 100, BATCH_BYTES // 3, BATCH_BYTES, PART_BYTES, 2 * PART_BYTES + 5)))
)
def test_packed_frames_come_out_whole_and_in_order(sizes: list[int]) -> None:
    frames = [small(number, size) for number, size in enumerate(sizes, 1)]
    assembler, out = PartAssembler(), list[frame_pb2.Frame]()
    for request in pack_requests(frames):
        assert request.ByteSize() <= PART_BYTES + 100
        out += request.frames.frames
        if request.HasField("part"):
            frame = assembler.add(request.part)
            out += [] if frame is None else [frame]
    assert out == frames


def test_small_frames_share_messages_of_about_the_batch_size() -> None:
    requests = list(pack_requests(small(n, BATCH_BYTES // 4) for n in range(1, 8)))
    assert [len(request.frames.frames) for request in requests] == [3, 3, 1]


def parts_of_large() -> list[ingest_service_pb2.FramePart]:
    return [request.part for request in pack_requests([small(9, 2 * PART_BYTES + 5)])]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda parts: parts.pop(1), "the next part"),
        (lambda parts: parts.pop(0), "the next part"),
        (lambda parts: setattr(parts[1], "sequence_number", 8), "the next part"),
        (lambda parts: setattr(parts[1], "total_bytes", 8), "the next part"),
        (lambda parts: setattr(parts[1], "crc32c", 8), "a part with crc32c 00000008"),
        (lambda parts: setattr(parts[1], "data", b""), "got 0 bytes"),
        (lambda parts: setattr(parts[2], "data", b"x" * 1000), "got 1000 bytes"),
        (lambda parts: setattr(parts[0], "total_bytes", 2**40), "a frame of 1 to"),
        (
            lambda parts: [setattr(part, "sequence_number", 8) for part in parts],
            "with the number of its parts",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_the_next_frame_is_taken(change: Any, wanted: str) -> None:
    assembler, parts = PartAssembler(), parts_of_large()
    change(parts)

    def add_all() -> None:
        for part in parts:
            assembler.add(part)

    with pytest.raises(InvalidFrameError, match=wanted) as caught:
        add_all()
    assert "sequence" in caught.value.metadata
    assert [assembler.add(part) for part in parts_of_large()][-1] is not None


def test_parts_that_make_no_frame_are_refused() -> None:
    part = ingest_service_pb2.FramePart(sequence_number=1, total_bytes=3, data=b"\xff\xff\xff")
    with pytest.raises(InvalidFrameError, match="do not parse"):
        PartAssembler().add(part)


def test_every_error_class_survives_the_way_to_the_client() -> None:
    codes = {}
    for name in errors.__all__:
        cls = getattr(errors, name)
        sent = cls("an apple", "a pear", "Try again.", metadata={"expected_sequence": "12"})
        code, message, trailing = abort_arguments(sent)
        got = error_from_rpc(AioRpcError(code, Metadata(), Metadata(*trailing), message))
        assert type(got) is cls
        assert (str(got), got.metadata) == (str(sent), sent.metadata)
        in_band = error_from_rejection(rejection_from_error(sent, 5, number_consumed=True))
        assert type(in_band) is cls
        assert (str(in_band), in_band.metadata) == (str(sent), sent.metadata)
        codes[name] = code.name
    assert codes == {  # frozen: clients in other languages match on them
        "AlreadyExistsError": "ALREADY_EXISTS",
        "DatasetError": "INVALID_ARGUMENT",
        "InvalidConfigError": "INVALID_ARGUMENT",
        "InvalidFrameError": "INVALID_ARGUMENT",
        "InvalidInputError": "INVALID_ARGUMENT",
        "NotFoundError": "NOT_FOUND",
        "ResourceLimitError": "RESOURCE_EXHAUSTED",
        "SequenceError": "FAILED_PRECONDITION",
        "ServerUnavailableError": "UNAVAILABLE",
        "StorageError": "DATA_LOSS",
        "StreamdgpError": "INTERNAL",
    }


@pytest.mark.parametrize(
    ("code", "details", "cls", "retry"),
    [
        (grpc.StatusCode.UNAVAILABLE, "refused", ServerUnavailableError, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", ServerUnavailableError, True),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", ServerUnavailableError, True),
        (grpc.StatusCode.INTERNAL, "a bug", StreamdgpError, False),
        (grpc.StatusCode.UNIMPLEMENTED, "", StreamdgpError, False),
        (grpc.StatusCode.NOT_FOUND, "", errors.NotFoundError, False),
    ],
)
def test_a_status_without_our_details_becomes_the_nearest_error(
    code: grpc.StatusCode, details: str, cls: type[StreamdgpError], retry: bool
) -> None:
    broken = Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = error_from_rpc(AioRpcError(code, Metadata(), broken, details), "robot:50051")
    assert type(error) is cls
    assert "robot:50051" in str(error)
    assert code.name in str(error)
    assert is_retryable(error) is retry


def test_a_long_message_fits_into_http2_headers() -> None:
    _, message, trailing = abort_arguments(InvalidInputError("w" * 100_000, "g" * 100_000, "r" * 100_000))
    assert len(message) + len(trailing[0][1]) < 8192


@given(
    config=st.builds(
        SceneConfig,
        anchor_radius_m=st.none() | st.floats(0.01, 1),
        resolution_m=st.none() | st.floats(0.001, 1),
        regime=st.sampled_from(("lazy", "active", "paper")),
        seed=st.integers(0, 2**31 - 1),
        normal_angle_deg=st.floats(1, 89),
    )
)
def test_settings_come_back(config: SceneConfig) -> None:
    message = config_to_proto(config.to_dict())
    message = scene_service_pb2.SceneConfig.FromString(message.SerializeToString())
    assert SceneConfig.from_dict(config_from_proto(message)) == config


def test_settings_that_make_no_sense_are_refused() -> None:
    assert config_from_proto(scene_service_pb2.SceneConfig()) == {}
    with pytest.raises(InvalidConfigError, match="regime one of"):
        config_to_proto({"regime": "eager"})
    with pytest.raises(InvalidConfigError, match="a number for seed"):
        config_to_proto({"seed": "x"})
    with pytest.raises(InvalidConfigError, match="got "):
        config_to_proto({"fit": {"width": object()}})
    message = config_to_proto({"fit": {"width": 8}})
    message.advanced_settings["seed"] = 1
    with pytest.raises(InvalidConfigError, match="without fields of their own"):
        config_from_proto(message)


@pytest.mark.parametrize("name", ["kitchen", "a", "A-1_b.c", "x" * 63])
def test_names_become_resource_names_and_back(name: str) -> None:
    assert parse_scene_name(scene_resource_name(name)) == name


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".a", "-a", "a b", "é", "x" * 64, "a\n", "a\0"])
def test_names_with_path_characters_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="a scene name of 1 to 63"):
        scene_resource_name(name)
    with pytest.raises(InvalidInputError, match="a scene"):
        parse_scene_name(f"scenes/{name}")


def test_a_bare_name_is_no_resource_name() -> None:
    with pytest.raises(InvalidInputError, match="'scenes/NAME'; got 'kitchen'"):
        parse_scene_name("kitchen")
