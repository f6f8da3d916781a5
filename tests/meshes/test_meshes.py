"""Mesh files and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamdgp.errors import DatasetError, InvalidInputError, NotFoundError, StorageError
from streamdgp.meshes import MESH_SUFFIXES, RayScene, TriangleMesh, read_mesh, render_png, write_mesh
from streamdgp.simulate._shapes import box, cylinder, join, sphere


def _with_normals() -> TriangleMesh:
    mesh = box((1.0, 2.0, 3.0), (0.5, 1.0, 2.0))
    outward = mesh.vertices - [1.0, 2.0, 3.0]
    return TriangleMesh(
        mesh.vertices, mesh.triangles, (outward / np.linalg.norm(outward, axis=1)[:, None]).astype("f4")
    )


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
@pytest.mark.parametrize("normals", [True, False])
def test_round_trip(tmp_path: Path, suffix: str, normals: bool) -> None:
    mesh = _with_normals() if normals else box((1.0, 2.0, 3.0), (0.5, 1.0, 2.0))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"an older file")
    write_mesh(path, mesh)
    back = read_mesh(path)
    assert len(back.triangles) == 12
    corners, expected = back.vertices[back.triangles], mesh.vertices[mesh.triangles]
    np.testing.assert_allclose(corners, expected, atol=1e-6)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_normals_reach_the_file(tmp_path: Path, suffix: str) -> None:
    for name, mesh in (("bare", box((0, 0, 0), (1, 1, 1))), ("full", _with_normals())):
        write_mesh(tmp_path / f"{name}{suffix}", mesh)
    assert (tmp_path / f"full{suffix}").stat().st_size > (tmp_path / f"bare{suffix}").stat().st_size + 50


def test_writing_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    mesh = box((0, 0, 0), (1, 1, 1))
    with pytest.raises(InvalidInputError, match=r"\.ply, \.obj, \.glb, \.stl"):
        write_mesh(tmp_path / "a.txt", mesh)
    with pytest.raises(NotFoundError, match="no such folder"):
        write_mesh(tmp_path / "no" / "a.ply", mesh)
    with pytest.raises(InvalidInputError, match="an empty one"):
        write_mesh(tmp_path / "a.ply", TriangleMesh(mesh.vertices, mesh.triangles[:0]))
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(StorageError, match=r"folder\.ply"):
        write_mesh(tmp_path / "folder.ply", mesh)
    assert [child.name for child in tmp_path.iterdir()] == ["folder.ply"]


def test_reading_refuses_what_is_no_mesh(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_mesh(tmp_path / "a.ply")
    with pytest.raises(DatasetError, match="a mesh file"):
        read_mesh(tmp_path / "a.xyz")
    (tmp_path / "b.ply").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match="a readable mesh"):
        read_mesh(tmp_path / "b.ply")
    elements = "element vertex 3\nelement face 1\nproperty list uchar int vertex_indices\n"
    (tmp_path / "d.ply").write_text(f"ply\nformat ascii 1.0\n{elements}end_header\n3 0 1 2\n")
    with pytest.raises(DatasetError, match=r"a readable mesh.*says nothing of 'x'"):
        read_mesh(tmp_path / "d.ply")
    (tmp_path / "c.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(DatasetError):
        read_mesh(tmp_path / "c.obj")


def test_a_mesh_cut_short_is_refused(tmp_path: Path) -> None:
    write_mesh(tmp_path / "a.ply", sphere((0, 0, 0), 1.0))
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"a\.ply"):
        read_mesh(tmp_path / "a.ply")


def test_triangle_mesh_checks_its_indices() -> None:
    with pytest.raises(InvalidInputError, match="vertex indices 0 to 2"):
        TriangleMesh(np.zeros((3, 3)), np.array([[0, 1, 3]], np.int32))
    with pytest.raises(InvalidInputError, match=r"triangles of shape \(N, 3\)"):
        TriangleMesh(np.zeros((3, 3)), np.zeros((1, 4), np.int32))


def test_shapes_are_closed_and_face_outwards() -> None:
    """The signed volume of a closed surface that faces outwards is its volume."""
    for mesh, volume in (
        (box((1, 2, 3), (1, 2, 3), 0.4), 6.0),
        (cylinder((1, 2, 3), 0.5, 2.0, 256), np.pi / 2),
        (sphere((1, 2, 3), 0.5, 96), np.pi / 6),
    ):
        a, b, c = (mesh.vertices[mesh.triangles[:, k]] for k in range(3))
        assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(volume, rel=2e-3)


def test_rays_and_distances_far_from_the_origin() -> None:
    """A kilometre away distances still hold to a hundredth of a millimetre."""
    offset = np.array([1000.0, -2000.0, 500.0])
    scene = RayScene(box(offset, (2.0, 2.0, 2.0)))
    hits = scene.cast(offset + np.array([5.0, 0.1, 0.2]), np.array([[-1.0, 0, 0], [1.0, 0, 0]]))
    assert hits.t[0] == pytest.approx(4.0, abs=1e-5)
    assert np.isinf(hits.t[1])
    assert hits.normals[0].tolist() == [1.0, 0.0, 0.0]
    distances, normals = scene.closest(offset + np.array([[1.5, 0.1, 0.2], [0.1, 0.2, -4.0]]))
    np.testing.assert_allclose(distances, [0.5, 3.0], atol=1e-5)
    np.testing.assert_allclose(normals, [[1, 0, 0], [0, 0, -1]])


def test_picture_shows_front_back_and_background(tmp_path: Path) -> None:
    mesh = join([box((0, 0, 0), (1, 1, 1)), sphere((2, 0, 0), 0.4)])
    inside_out = TriangleMesh(mesh.vertices, mesh.triangles[:, ::-1])
    path = tmp_path / "a.png"
    render_png({"one": mesh, "turned": inside_out}, path, size=(80, 60))
    with Image.open(path) as image:
        picture = np.asarray(image).astype(int)
    assert picture.shape == (90, 160, 3)
    left, right = picture[30:, :80], picture[30:, 80:]
    covered = (left != 250).any(axis=-1)
    assert 0.05 < covered.mean() < 0.9
    np.testing.assert_array_equal(covered, (right != 250).any(axis=-1))
    redness = [(view[covered][:, 0] - view[covered][:, 2]).mean() for view in (left, right)]
    assert redness[0] < 25 < redness[1]
    render_png(_with_normals(), path, size=(40, 30), eye_m=(9, 9, 9), target_m=(1, 2, 3))
    with Image.open(path) as image:
        assert image.size == (40, 30)
    with pytest.raises(InvalidInputError, match="triangles to draw"):
        render_png({}, path)
