"""Rules of the wire contract, and that the checked-in stubs are made from it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

from streamdgp.v1 import (
    common_pb2,
    frame_pb2,
    ingest_service_pb2,
    scene_service_pb2,
    surface_service_pb2,
)

ROOT = Path(__file__).parents[1]
PROTO_PYTHON = ROOT / ".venv-proto" / "bin" / "python"
FILES = [
    module.DESCRIPTOR
    for module in (common_pb2, frame_pb2, ingest_service_pb2, scene_service_pb2, surface_service_pb2)
]
GENERATED = "*_pb2*.py*"


def messages() -> Iterator[Descriptor]:
    for file in FILES:
        yield from file.message_types_by_name.values()


def test_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    assert PROTO_PYTHON.exists(), "run `make install`: it sets up the generator in .venv-proto"
    subprocess.run([PROTO_PYTHON, ROOT / "protos" / "generate.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "streamdgp" / "v1").glob(GENERATED)}
    kept = {path.name: path.read_text() for path in (ROOT / "streamdgp" / "v1").glob(GENERATED)}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == [], "run `make proto`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_lie_where_their_package_says(file: FileDescriptor) -> None:
    assert file.package == "streamdgp.v1"
    assert file.name == f"streamdgp/v1/{Path(file.name).name}"
    assert (ROOT / "protos" / file.name).is_file()


def test_every_response_starts_with_the_header_and_nothing_else_has_one() -> None:
    for message in messages():
        first = message.fields_by_number.get(1)
        has_header = first is not None and first.name == "header"
        assert has_header == message.name.endswith("Response"), message.full_name
        if has_header:
            assert first.message_type.full_name == "streamdgp.v1.ResponseHeader"


def test_calls_have_requests_and_responses_of_their_own_name() -> None:
    services = [service for file in FILES for service in file.services_by_name.values()]
    calls = [method for service in services for method in service.methods]
    assert {call.name for call in calls} == {
        *("CreateScene", "GetScene", "ListScenes", "DeleteScene", "ListRevisions", "GetSceneStatistics"),
        *("CreateTag", "ListTags", "DeleteTag"),
        *("Ingest", "GetIngestStatus", "GetMesh", "WatchSurface", "Query"),
    }
    for call in calls:
        assert call.input_type.name == f"{call.name}Request"
        assert call.output_type.name == f"{call.name}Response"
        assert call.containing_service.name.endswith("Service")


def test_enums_start_with_unspecified_and_carry_their_prefix() -> None:
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            prefix = re.sub(r"(?<!^)([A-Z])", r"_\1", enum.name).upper() + "_"
            assert enum.values_by_number[0].name == f"{prefix}UNSPECIFIED"
            assert all(value.name.startswith(prefix) for value in enum.values)


def test_measurements_are_arrays_and_numbers_are_signed() -> None:
    """Only a transform's sixteen numbers and an array's shape are repeated scalars; only hashes unsigned."""
    repeated, unsigned = set(), set()
    for message in messages():
        for field in message.fields:
            scalar = field.message_type is None and field.type != field.TYPE_STRING
            if scalar and field.is_repeated:
                repeated.add(field.full_name.removeprefix("streamdgp.v1."))
            if field.type in (field.TYPE_UINT32, field.TYPE_UINT64):
                unsigned.add(field.full_name.removeprefix("streamdgp.v1."))
    assert repeated == {"RigidTransform.matrix", "Array.shape"}
    assert unsigned == {"TileId.signature"}


def test_field_numbers_are_pinned() -> None:
    """Once released a number keeps its meaning; a change here needs a reason (AIP-180)."""
    pinned = {
        "Frame": (
            "sequence_number source_id source_crc32c capture_time world_t_sensor "
            "depth_image point_cloud range_image"
        ),
        "Array": "dtype shape encoding data crc32c",
        "DepthImage": "depth depth_scale_m intrinsics min_range_m max_range_m color",
        "PointCloud": (
            "points point_scale_m sensor_origin_m normals color min_range_m max_range_m sensor_kind"
        ),
        "RangeImage": "ranges range_scale_m elevations_rad azimuths_rad min_range_m max_range_m",
        "IngestRequest": "open frames part",
        "IngestResponse": "header opened ack rejected",
        "IngestOpen": "scene producer_id epoch create_if_missing config",
        "IngestProgress": "durable_sequence_number applied_sequence_number credit_count",
        "FramePart": "sequence_number offset total_bytes data crc32c",
        "GetMeshRequest": "scene region resolution_m revision known_tiles revision_tag",
        "MeshTile": "id origin_m vertices normals triangles vertex_keys",
    }
    by_name = {message.name: message for message in messages()}
    for name, fields in pinned.items():
        assert [by_name[name].fields_by_number[n + 1].name for n in range(len(by_name[name].fields))] == (
            fields.split()
        )


def test_proto_lint() -> None:
    buf = PROTO_PYTHON.with_name("buf")
    assert buf.exists(), "run `make install`: it sets up the linter in .venv-proto"
    done = subprocess.run([buf, "lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
