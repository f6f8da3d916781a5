"""Triangle meshes as files, and as pictures.

Reading and writing are light (numpy, trimesh); rays and pictures load open3d when they are used.
"""

from streamdgp.meshes._files import (
    MESH_SUFFIXES,
    MeshLike,
    TriangleMesh,
    check_mesh_path,
    read_mesh,
    write_mesh,
)
from streamdgp.meshes._rays import RayHits, RayScene
from streamdgp.meshes._render import render_png

__all__ = [
    "MESH_SUFFIXES",
    "MeshLike",
    "RayHits",
    "RayScene",
    "TriangleMesh",
    "check_mesh_path",
    "read_mesh",
    "render_png",
    "write_mesh",
]
