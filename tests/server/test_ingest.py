"""Ingest over a real socket: the numbers, the acks, and every kind of bad frame."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import numpy as np
import pytest

from streamdgp.errors import InvalidInputError, NotFoundError, SequenceError
from streamdgp.frames import PointFrame
from streamdgp.v1 import common_pb2, frame_pb2, ingest_service_pb2
from streamdgp.wire import MAX_FRAME_BYTES, encode_array, error_from_rpc, frame_to_proto
from tests.server.harness import (
    ServerProcess,
    Stream,
    get_mesh,
    make_frame,
    mesh_bytes,
    send_scan,
    vertices_of,
)


def status(
    server: ServerProcess, scene: str, producer: str = "robot", **more: object
) -> ingest_service_pb2.GetIngestStatusResponse:
    return server.ingest.GetIngestStatus(
        ingest_service_pb2.GetIngestStatusRequest(scene=scene, producer_id=producer, **more)
    )


def test_frames_become_durable_then_applied_then_visible(server: ServerProcess) -> None:
    stream = Stream(server, "scenes/basic")
    opened = stream.opened()
    assert (opened.next_sequence_number, opened.scene_created, opened.max_frame_bytes) == (
        1,
        True,
        MAX_FRAME_BYTES,
    )
    assert opened.progress.credit_count >= 1
    for number in range(1, 7):
        stream.send_frames(make_frame(number))
    stream.finish()
    assert stream.progress.durable_sequence_number == stream.progress.applied_sequence_number == 6
    assert stream.rejected == []
    last = stream.responses[-1].header.revision
    assert last >= 1
    responses = get_mesh(server, "scenes/basic")
    assert responses[0].header.revision == last
    distances = np.linalg.norm(vertices_of(responses), axis=1)
    assert len(distances) > 100
    assert np.abs(distances - 0.5).max() < 0.1  # a sphere of half a metre


def test_acks_never_go_back_and_applied_never_leads(server: ServerProcess) -> None:
    stream = send_scan(server, 1, 5, "scenes/acks")
    acks = [r.ack.progress for r in stream.responses if r.HasField("ack")]
    pairs = [(a.durable_sequence_number, a.applied_sequence_number) for a in acks]
    assert pairs == sorted(pairs)
    assert all(applied <= durable for durable, applied in pairs)
    revisions = [r.header.revision for r in stream.responses]
    assert revisions == sorted(revisions)


def test_several_frames_in_one_message_and_one_frame_in_several(server: ServerProcess) -> None:
    whole = send_scan(server, 1, 4, "scenes/one-each")
    assert whole.rejected == []
    stream = Stream(server, "scenes/chunked")
    stream.send_frames(make_frame(1), make_frame(2), make_frame(3))
    data = make_frame(4).SerializeToString()
    for offset in range(0, len(data), 700):
        part = ingest_service_pb2.FramePart(
            sequence_number=4, offset=offset, total_bytes=len(data), data=data[offset : offset + 700]
        )
        stream.send(ingest_service_pb2.IngestRequest(part=part))
    stream.finish()
    assert stream.progress.applied_sequence_number == 4
    one_each, chunked = (get_mesh(server, f"scenes/{name}") for name in ("one-each", "chunked"))
    assert mesh_bytes(one_each)[1] == mesh_bytes(chunked)[1]


def test_a_frame_larger_than_a_message(server: ServerProcess) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(800_000, 3)).astype(np.float32)
    points[1000:] = np.nan  # large on the wire, small to fit
    frame = PointFrame(points, np.eye(4))
    data = frame_to_proto(frame, sequence_number=1, encoding="raw").SerializeToString()
    assert len(data) > 9_000_000
    stream = Stream(server, "scenes/large")
    for offset in range(0, len(data), 3_000_000):
        part = ingest_service_pb2.FramePart(
            sequence_number=1,
            offset=offset,
            total_bytes=len(data),
            data=data[offset : offset + 3_000_000],
        )
        stream.send(ingest_service_pb2.IngestRequest(part=part))
    assert stream.finish().progress.applied_sequence_number == 1
    assert stream.rejected == []


def test_a_damaged_part_is_asked_for_again(server: ServerProcess) -> None:
    stream = Stream(server, "scenes/parts")
    data = make_frame(1).SerializeToString()

    def send_parts(*, checksum: int | None) -> None:
        for offset in range(0, len(data), 1000):
            part = ingest_service_pb2.FramePart(
                sequence_number=1, offset=offset, total_bytes=len(data), data=data[offset : offset + 1000]
            )
            if checksum is not None and offset == 1000:
                part.crc32c = checksum
            stream.send(ingest_service_pb2.IngestRequest(part=part))

    assert len(data) > 3000
    send_parts(checksum=1)
    stream.wait(lambda: bool(stream.rejected))
    (rejected,) = stream.rejected
    assert (rejected.sequence_number, rejected.number_consumed) == (1, False)
    assert "crc32c" in rejected.message
    send_parts(checksum=None)
    stream.finish()
    assert len(stream.rejected) == 1
    assert stream.progress.applied_sequence_number == 1


def test_a_frame_too_large_uses_its_number_up(server: ServerProcess) -> None:
    stream = Stream(server, "scenes/too-large")
    for offset in (0, 10):
        part = ingest_service_pb2.FramePart(
            sequence_number=1, offset=offset, total_bytes=MAX_FRAME_BYTES + 1, data=bytes(10)
        )
        stream.send(ingest_service_pb2.IngestRequest(part=part))
    stream.send_frames(make_frame(2))
    stream.finish()
    (rejected,) = stream.rejected
    assert rejected.number_consumed
    assert str(MAX_FRAME_BYTES) in rejected.message
    assert stream.progress.applied_sequence_number == 2


def test_gap_duplicate_and_changed_source(server: ServerProcess) -> None:
    scene = "scenes/numbers"
    stream = Stream(server, scene)
    stream.send_frames(make_frame(1), make_frame(2))
    stream.wait_durable(2)
    stream.send_frames(make_frame(2), make_frame(1))  # repeated: acknowledged and ignored
    stream.send_frames(make_frame(4))  # a gap
    other = make_frame(2)
    other.source_crc32c = 99
    stream.send_frames(other)
    stream.send_frames(make_frame(3))
    stream.finish()
    gap, changed = stream.rejected
    assert (gap.sequence_number, gap.reason, gap.number_consumed) == (4, "SEQUENCE", False)
    assert gap.metadata["expected_sequence"] == "3"
    assert "sequence number 3 next; got 4" in gap.message
    assert (changed.sequence_number, changed.reason, changed.number_consumed) == (2, "SEQUENCE", False)
    assert "frame-000002" in changed.message
    assert stream.progress.applied_sequence_number == 3
    answer = status(server, scene)
    assert [r.source_id for r in answer.records] == ["frame-000001", "frame-000002", "frame-000003"]
    assert [r.source_crc32c for r in answer.records] == [1001, 1002, 1003]
    assert answer.progress.applied_sequence_number == 3


def depth(frame: frame_pb2.Frame) -> common_pb2.Array:
    return frame.depth_image.depth


def cut_png(frame: frame_pb2.Frame) -> None:
    png = encode_array(np.ones((60, 80), np.uint16), "png")
    png.data = png.data[: len(png.data) // 2]
    png.ClearField("crc32c")
    frame.depth_image.depth.CopyFrom(png)


def scale_pose(frame: frame_pb2.Frame) -> None:
    frame.world_t_sensor.matrix[0] = 2.0


def put_nan(frame: frame_pb2.Frame) -> None:
    frame.world_t_sensor.matrix[3] = float("nan")


BAD_FRAMES: dict[str, tuple[Callable[[frame_pb2.Frame], object], str]] = {
    "wrong-size": (lambda f: depth(f).shape.__setitem__(0, 61), "61"),
    "huge-shape": (lambda f: depth(f).shape.__setitem__(0, 2**30), "1073741824"),
    "unknown-encoding": (lambda f: setattr(depth(f), "encoding", 77), "encoding"),
    "unknown-dtype": (lambda f: setattr(depth(f), "dtype", 77), "dtype"),
    "damaged": (lambda f: setattr(depth(f), "data", b"xx"), "crc32c"),
    "truncated-png": (cut_png, "PNG"),
    "zero-focal-length": (lambda f: setattr(f.depth_image.intrinsics, "fx", 0.0), "positive focal lengths"),
    "negative-focal-length": (lambda f: setattr(f.depth_image.intrinsics, "fy", -5.0), "fy=-5"),
    "not-rigid": (scale_pose, "off by"),
    "nan-pose": (put_nan, "finite pose"),
    "no-pose": (lambda f: f.ClearField("world_t_sensor"), "16 numbers"),
    "nothing": (lambda f: f.ClearField("depth_image"), "depth_image"),
    "bad-range": (lambda f: setattr(f.depth_image, "max_range_m", 0.01), "min_range_m"),
    "long-source": (lambda f: setattr(f, "source_id", "x" * 300), "256"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_refused_in_band_and_the_stream_goes_on(server: ServerProcess, name: str) -> None:
    spoil, text = BAD_FRAMES[name]
    scene = f"scenes/bad-{name}"
    stream = Stream(server, scene)
    bad = make_frame(2)
    spoil(bad)
    stream.send_frames(make_frame(1), bad, make_frame(3))
    stream.finish()
    (rejected,) = stream.rejected
    assert (rejected.sequence_number, rejected.reason, rejected.number_consumed) == (2, "INVALID_FRAME", True)
    assert text in rejected.message
    assert rejected.metadata["wanted"]
    assert rejected.metadata["got"]
    assert rejected.metadata["remedy"]
    assert stream.progress.applied_sequence_number == 3
    reasons = [r.rejected_reason for r in status(server, scene).records]
    assert [bool(reason) for reason in reasons] == [False, True, False]
    # Sent again, it is known and ignored.
    again = Stream(server, scene)
    again.opened()
    again.send_frames(bad)
    assert again.finish().progress.applied_sequence_number == 3


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_frame_of_no_returns_is_accepted_and_has_no_effect(server: ServerProcess, value: float) -> None:
    scene = f"scenes/empty-{value}"
    empty = make_frame(2)
    empty.depth_image.depth.CopyFrom(encode_array(np.full((60, 80), value, np.float32)))
    stream = Stream(server, scene)
    stream.send_frames(make_frame(1))
    stream.wait_applied(1)
    before = mesh_bytes(get_mesh(server, scene))[1]
    stream.send_frames(empty)
    stream.finish()
    assert stream.rejected == []
    assert stream.progress.applied_sequence_number == 2
    assert mesh_bytes(get_mesh(server, scene))[1] == before


def test_nan_in_depth_is_no_return(server: ServerProcess) -> None:
    frame = make_frame(1)
    image = np.full((60, 80), 1.0, np.float32)
    image[::2] = np.nan
    frame.depth_image.depth.CopyFrom(encode_array(image))
    stream = Stream(server, "scenes/some-nan")
    stream.send_frames(frame)
    assert stream.finish().rejected == []


def test_a_frame_ten_kilometres_away(server: ServerProcess) -> None:
    scene = "scenes/far"
    far = make_frame(2)
    far.world_t_sensor.matrix[3] += 10_000
    stream = Stream(server, scene)
    stream.send_frames(make_frame(1), far, make_frame(3))
    stream.finish()
    assert stream.progress.applied_sequence_number == 3
    vertices = vertices_of(get_mesh(server, scene))
    is_near = np.linalg.norm(vertices, axis=1) < 1
    assert is_near.sum() > 100
    assert np.abs(np.linalg.norm(vertices[is_near], axis=1) - 0.5).max() < 0.1


def test_epochs_fence_older_runs(server: ServerProcess) -> None:
    scene = "scenes/epochs"
    old = Stream(server, scene)
    assert old.opened().epoch == 1
    old.send_frames(make_frame(1))
    old.wait_durable(1)
    new = Stream(server, scene)
    assert (new.opened().epoch, new.opened().next_sequence_number) == (2, 2)
    error = old.wait_ended()
    assert isinstance(error, SequenceError)
    assert "taken over" in str(error)
    zombie = Stream(server, scene, epoch=1)
    error = zombie.wait_ended()
    assert isinstance(error, SequenceError)
    assert error.metadata["newest_epoch"] == "2"
    reconnected = Stream(server, scene, epoch=2)
    assert reconnected.opened().epoch == 2
    assert isinstance(new.wait_ended(), SequenceError)
    reconnected.send_frames(make_frame(2))
    assert reconnected.finish().progress.applied_sequence_number == 2


def test_two_producers_feed_one_scene(server: ServerProcess) -> None:
    scene = "scenes/two"
    streams = [Stream(server, scene, producer) for producer in ("left", "right")]
    for number in range(1, 4):
        for offset, stream in enumerate(streams):
            stream.send_frames(make_frame(number, angle_rad=0.3 * number + offset))
    for stream in streams:
        assert stream.finish().progress.applied_sequence_number == 3
    assert status(server, scene, "left").progress.durable_sequence_number == 3
    assert status(server, scene, "nobody").progress.durable_sequence_number == 0


def test_status_comes_in_pages(server: ServerProcess) -> None:
    scene = "scenes/pages"
    send_scan(server, 1, 5, scene)
    numbers, token = [], ""
    while True:
        answer = status(server, scene, page_size=2, page_token=token)
        numbers += [r.sequence_number for r in answer.records]
        token = answer.next_page_token
        if not token:
            break
    assert numbers == [1, 2, 3, 4, 5]


def open_request(**fields: object) -> ingest_service_pb2.IngestRequest:
    return ingest_service_pb2.IngestRequest(open=ingest_service_pb2.IngestOpen(**fields))


@pytest.mark.parametrize(
    ("scene", "producer", "wanted"),
    [
        ("scenes/../etc", "robot", "a scene name"),
        ("scenes/a/b", "robot", "a scene name"),
        ("scenes/", "robot", "a scene name"),
        ("scenes/.hidden", "robot", "a scene name"),
        ("scenes/" + "x" * 64, "robot", "a scene name"),
        ("scenes/nul\0", "robot", "a scene name"),
        ("kitchen", "robot", "scenes/"),
        ("scenes/ok", "", "a producer_id"),
        ("scenes/ok", "a/b", "a producer_id"),
    ],
)
def test_names_that_are_refused(server: ServerProcess, scene: str, producer: str, wanted: str) -> None:
    error = Stream(server, scene, producer).wait_ended()
    assert isinstance(error, InvalidInputError)
    assert wanted in str(error)


def test_an_unknown_scene_is_not_created_unasked(server: ServerProcess) -> None:
    call = server.ingest.Ingest(iter([open_request(scene="scenes/nowhere", producer_id="robot")]))
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert isinstance(error_from_rpc(caught.value), NotFoundError)


def test_the_first_request_must_open_and_only_the_first(server: ServerProcess) -> None:
    frames = ingest_service_pb2.IngestRequest(frames=ingest_service_pb2.FrameBatch())
    opening = open_request(scene="scenes/twice", producer_id="robot", create_if_missing=True)
    for requests in ([frames], [], [opening, opening], [opening, ingest_service_pb2.IngestRequest()]):
        with pytest.raises(grpc.RpcError) as caught:
            list(server.ingest.Ingest(iter(requests)))
        error = error_from_rpc(caught.value)
        assert isinstance(error, InvalidInputError)
        assert "open" in str(error).lower()


def test_a_cancelled_stream_keeps_what_was_durable(server: ServerProcess) -> None:
    scene = "scenes/cancelled"
    stream = Stream(server, scene)
    stream.send_frames(make_frame(1), make_frame(2))
    stream.wait_durable(2)
    stream._call.cancel()
    stream.wait_ended()
    assert Stream(server, scene).opened().next_sequence_number == 3
