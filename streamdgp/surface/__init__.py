"""The surface: blended signed distance of the charts, tiles, meshes."""

from streamdgp.surface.mesh import Mesh, TileMesh, weld_tiles
from streamdgp.surface.snapshot import SurfaceSnapshot, TileCache

__all__ = ["Mesh", "SurfaceSnapshot", "TileCache", "TileMesh", "weld_tiles"]
