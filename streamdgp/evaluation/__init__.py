"""How good a surface is: against a reference mesh, and against depth frames that were held back."""

from streamdgp.evaluation._depth import DepthScores, compare_depth
from streamdgp.evaluation._mesh import MeshScores, compare_meshes, sample_surface, vertices_within
from streamdgp.evaluation.baselines import Baseline, fuse_tsdf, fuse_tsdf_lidar, screened_poisson

__all__ = [
    "Baseline",
    "DepthScores",
    "MeshScores",
    "compare_depth",
    "compare_meshes",
    "fuse_tsdf",
    "fuse_tsdf_lidar",
    "sample_surface",
    "screened_poisson",
    "vertices_within",
]
