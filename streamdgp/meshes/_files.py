"""Reading and writing triangle meshes (PLY, OBJ, GLB, STL)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.errors import DatasetError, InvalidInputError, NotFoundError, StorageError

__all__ = ["MESH_SUFFIXES", "MeshLike", "TriangleMesh", "check_mesh_path", "read_mesh", "write_mesh"]

MESH_SUFFIXES: Final = (".ply", ".obj", ".glb", ".stl")


class MeshLike(Protocol):
    """Whatever has vertices (N, 3) in metres and triangles (M, 3) of vertex indices."""

    @property
    def vertices(self) -> npt.NDArray[Any]:
        """Vertex positions (N, 3), metres."""

    @property
    def triangles(self) -> npt.NDArray[Any]:
        """Vertex indices (M, 3)."""


@dataclass(frozen=True)
class TriangleMesh:
    """A triangle mesh: vertices (N, 3) float64, triangles (M, 3) int32, normals (N, 3) float32 or None."""

    vertices: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int32]
    normals: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("vertices", np.float64), ("triangles", np.int32)):
            array = np.asarray(getattr(self, name), dtype=dtype)
            if array.ndim != 2 or array.shape[1] != 3:
                raise InvalidInputError(f"{name} of shape (N, 3)", f"{array.shape}", "Send triangles.")
            object.__setattr__(self, name, array)
        used = self.triangles
        if used.size and (used.min() < 0 or used.max() >= len(self.vertices)):
            raise InvalidInputError(
                f"vertex indices 0 to {len(self.vertices) - 1}",
                f"{used.min()} to {used.max()}",
                "Check the mesh.",
            )


def read_mesh(path: str | Path) -> TriangleMesh:
    """Read a mesh; the parts of a scene are joined, polygons cut into triangles.

    Raises
    ------
    DatasetError
        No such file, another kind of file, broken, or without a triangle.
    """
    import trimesh

    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise DatasetError(f"a mesh file ({', '.join(MESH_SUFFIXES)})", str(path), "Convert it.")
    if not path.is_file():
        raise DatasetError(f"a mesh file {path}", "no such file", "Check the path.")
    try:
        mesh: Any = trimesh.load(path, process=False, force="mesh", skip_materials=True)
        vertices, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    except KeyError as error:
        raise DatasetError(
            f"a readable mesh {path}", f"a file that says nothing of {error}", "Export it again."
        ) from error
    except Exception as error:  # the parsers of trimesh raise whatever they stumble over
        raise DatasetError(
            f"a readable mesh {path}",
            f"a file that does not parse ({type(error).__name__}: {error})",
            "Export it again.",
        ) from error
    if not len(triangles):
        raise DatasetError(
            f"a mesh with triangles in {path}", f"{len(vertices)} vertices only", "Is it a point cloud?"
        )
    if not np.isfinite(vertices).all():
        raise DatasetError(f"finite vertices in {path}", "NaN or infinity", "Export it again.")
    try:
        return TriangleMesh(vertices, triangles)
    except InvalidInputError as error:
        raise DatasetError(f"a readable mesh {path}", str(error), "Export it again.") from error


def check_mesh_path(path: str | Path) -> Path:
    """The path of a mesh file that can be written: known suffix, existing folder.

    Raises
    ------
    InvalidInputError
        A suffix that is no mesh format.
    NotFoundError
        The folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InvalidInputError(
            f"a mesh file name ({', '.join(MESH_SUFFIXES)})", path.name, "Choose one of them."
        )
    if not path.parent.is_dir():
        raise NotFoundError(
            f"a folder {path.parent} to write {path.name} into", "no such folder", "Create it."
        )
    return path


def write_mesh(path: str | Path, mesh: MeshLike) -> None:
    """Write a mesh; the file appears whole or not at all.

    Parameters
    ----------
    path
        File to write or replace; its suffix (``MESH_SUFFIXES``) is the format.
    mesh
        Vertices, triangles and, where it has them, ``normals`` (N, 3).

    Raises
    ------
    InvalidInputError
        A suffix that is no mesh format, or a mesh without a triangle.
    NotFoundError
        The folder does not exist.
    StorageError
        The file cannot be written.
    """
    import trimesh

    path = check_mesh_path(path)
    suffix = path.suffix.lower()
    if not len(mesh.triangles):
        raise InvalidInputError(
            f"a mesh with triangles to write to {path.name}", "an empty one", "Integrate frames first."
        )
    normals = getattr(mesh, "normals", None)
    solid = trimesh.Trimesh(mesh.vertices, mesh.triangles, vertex_normals=normals, process=False)
    keep: dict[str, Any] = {}
    if normals is not None and suffix != ".stl":
        keep = {"vertex_normal": True} if suffix == ".ply" else {"include_normals": True}
    data: Any = solid.export(file_type=suffix[1:], **keep)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"a writable {path}", str(error), "Check space and permissions.") from error
