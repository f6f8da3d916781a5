"""What the distribution holds and how light its parts are."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from streamdgp.v1 import ingest_service_pb2, scene_service_pb2

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "open3d", "scipy", "zarr", "icechunk", "numba", "geomloss", "streamdgp_server")
LIGHT = (
    "streamdgp",
    "streamdgp.cli.main",
    "streamdgp.datasets",
    "streamdgp.frames",
    "streamdgp.meshes",
    "streamdgp.wire",
    "streamdgp_client",
    "streamdgp_client.cli",
)
EXPORTS = {
    "streamdgp": ["Reconstructor", "SceneConfig", "StreamdgpError", "__version__", "open_dataset"],
    "streamdgp_client": [
        "AsyncClient",
        "Client",
        "ConnectionChange",
        "FrameRecord",
        "FrameStream",
        "IngestStatus",
        "Mesh",
        "Progress",
        "Rejection",
        "RetryPolicy",
        "RevisionInfo",
        "SceneInfo",
        "SceneStatistics",
        "StreamHandle",
        "UploadReport",
        "upload",
    ],
    "streamdgp.frames": [
        "DepthFrame",
        "Frame",
        "FrameReport",
        "Intrinsics",
        "PointFrame",
        "RangeImageFrame",
        "validate_pose",
    ],
}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", sorted(EXPORTS))
def test_public_names_are_pinned(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(EXPORTS[module])
    for name in exported:
        assert getattr(importlib.import_module(module), name) is not None


def test_base_dependencies_are_the_light_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("<")[0].split("=")[0] for line in project["dependencies"]}
    assert names == {
        *("click", "google-crc32c", "googleapis-common-protos", "grpcio", "numcodecs", "numpy"),
        *("pillow", "protobuf", "rich", "trimesh"),
    }
    assert {"server", "viewer", "ray", "dev"} == set(project["optional-dependencies"])


def test_constraints_pin_every_package_exactly_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 and "+" not in line and "/" not in line for line in lines)
    assert "torch==2.13.0" in lines


def test_every_folder_with_code_is_a_package() -> None:
    """setup.py finds packages by their __init__.py; a folder without one would be missing in a wheel."""
    folders = {
        file.parent for top in ("streamdgp", "server", "client") for file in (ROOT / top).rglob("*.py")
    }
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("service", "left_out"),
    [
        (scene_service_pb2.DESCRIPTOR.services_by_name["SceneService"], set()),
        (ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"], {"Ingest"}),  # `stream`
    ],
)
def test_both_clients_have_a_method_for_every_call(service: object, left_out: set[str]) -> None:
    client = importlib.import_module("streamdgp_client")
    wanted = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in method.name).lstrip("_")
        for method in service.methods  # type: ignore[attr-defined]
        if method.name not in left_out
    } | {"stream", "query_mesh", "close"}
    assert wanted <= set(dir(client.AsyncClient))
    assert wanted <= set(dir(client.Client))


def test_the_blocking_client_takes_the_arguments_of_the_asynchronous_one() -> None:
    client = importlib.import_module("streamdgp_client")
    pairs = ((client.AsyncClient, client.Client), (client.FrameStream, client.StreamHandle))
    for asynchronous, blocking in pairs:
        for name, method in inspect.getmembers(asynchronous, inspect.isfunction):
            if not name.startswith("_"):
                ours = inspect.signature(getattr(blocking, name))
                assert list(ours.parameters) == list(inspect.signature(method).parameters), name
