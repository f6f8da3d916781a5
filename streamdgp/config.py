"""Settings of one scene: frozen, nested, validated once; every default lives here and only here.

``None`` means *automatic*: the value follows from the sensor and the first frame
(``streamdgp.scale``) and is recorded with the scene when it has been chosen.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from streamdgp.errors import InvalidConfigError

__all__ = ["ConsistencyConfig", "EvidenceConfig", "FitConfig", "RegimeName", "SceneConfig", "SurfaceConfig"]

RegimeName = Literal["lazy", "active", "paper"]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, wanted: str, got: object, remedy: str = "Change the setting.") -> None:
    if not condition:
        raise InvalidConfigError(wanted, str(got), remedy)


@dataclass(frozen=True)
class EvidenceConfig:
    """How measurements become surfels."""

    min_incidence_cos: float = 0.1
    """Smallest cosine between ray and normal that is still used, in [0, 1)."""
    most_per_view: int = 32
    """One viewpoint adds at most this many observations to a surfel, 1 to 255."""
    free_space: bool = True
    """Depth images and LiDAR scans take evidence and support away that they see through."""
    pose_error_vox: float = 0.3
    """Least error of pose and calibration in voxels, 0 to 10: near views do not overrule all far ones."""

    def __post_init__(self) -> None:
        _require(isinstance(self.free_space, bool), "free_space true or false", self.free_space)
        _require(0 <= self.min_incidence_cos < 1, "min_incidence_cos in [0, 1)", self.min_incidence_cos)
        _require(
            _whole(self.most_per_view) and 1 <= self.most_per_view <= 255,
            "most_per_view from 1 to 255",
            self.most_per_view,
        )
        _require(
            math.isfinite(self.pose_error_vox) and 0 <= self.pose_error_vox <= 10,
            "pose_error_vox from 0 to 10",
            self.pose_error_vox,
        )


@dataclass(frozen=True)
class FitConfig:
    """How a chart is fitted."""

    width: int = 256
    """Random hidden features per layer, shared by all charts, 4 to 1024."""
    features: int = 30
    """How many combinations of them a chart weighs at most, the smoothest, 1 to 64."""
    max_samples: int = 256
    """Evidence rows per chart after binning, 64 to 4096."""
    transport_samples: int = 64
    """Parameter samples of the optimal-transport step, 16 to 256."""
    smoothness: float = 0.8
    """What a degree of freedom costs when the ridge is chosen, >= 0.5; 1: marginal likelihood as it is."""
    refit_growth: float = 1.25
    """By what factor a cell's evidence mass must grow before a chart of many fits is refitted, > 1."""
    most_waiting: int = 4
    """Charts are looked at when the view moved (``streamdgp.turns``), or after so many frames, 1 to 30."""

    def __post_init__(self) -> None:
        _require(_whole(self.width) and 4 <= self.width <= 1024, "width in 4..1024", self.width)
        _require(_whole(self.features) and 1 <= self.features <= 64, "features in 1..64", self.features)
        _require(
            _whole(self.max_samples) and 64 <= self.max_samples <= 4096,
            "max_samples in 64..4096",
            self.max_samples,
        )
        _require(
            _whole(self.transport_samples) and 16 <= self.transport_samples <= 256,
            "transport_samples in 16..256",
            self.transport_samples,
        )
        _require(
            math.isfinite(self.smoothness) and self.smoothness >= 0.5, "smoothness >= 0.5", self.smoothness
        )
        _require(
            math.isfinite(self.refit_growth) and self.refit_growth > 1, "refit_growth > 1", self.refit_growth
        )
        _require(
            _whole(self.most_waiting) and 1 <= self.most_waiting <= 30,
            "most_waiting in 1..30",
            self.most_waiting,
        )


@dataclass(frozen=True)
class ConsistencyConfig:
    """How charts are made to agree (paper, section on consistency)."""

    sweeps: int = 1
    """Block relaxation sweeps over the dirty charts, 0 (off) to 8."""
    weight: float = 1.5
    """mu: weight of the overlap terms against the evidence, >= 0."""

    def __post_init__(self) -> None:
        _require(_whole(self.sweeps) and 0 <= self.sweeps <= 8, "sweeps in 0..8", self.sweeps)
        _require(math.isfinite(self.weight) and self.weight >= 0, "weight >= 0", self.weight)


@dataclass(frozen=True)
class SurfaceConfig:
    """How the surface is blended and extracted."""

    tile_cells: int = 16
    """Cells along one edge of a mesh tile, 4 to 64."""
    blend_radius: float = 0.9
    """Radius of a chart's influence as a share of its ball, in (0, 1]."""

    def __post_init__(self) -> None:
        _require(
            _whole(self.tile_cells) and 4 <= self.tile_cells <= 64, "tile_cells in 4..64", self.tile_cells
        )
        _require(0 < self.blend_radius <= 1, "blend_radius in (0, 1]", self.blend_radius)


_NESTED: dict[str, type] = {
    "evidence": EvidenceConfig,
    "fit": FitConfig,
    "consistency": ConsistencyConfig,
    "surface": SurfaceConfig,
}


@dataclass(frozen=True)
class SceneConfig:
    """Settings of one scene; ``SceneConfig()`` is automatic throughout."""

    anchor_radius_m: float | None = None
    """Poisson-disk radius r of the anchors, metres: the least there is."""
    largest_radius_ratio: float = 4.0
    """Where surface is flat or evidence sparse anchors lie up to so many r apart, 1 to 4, in steps of √2."""
    evidence_voxel_m: float | None = None
    """Edge of an evidence voxel, metres; at most r / 3."""
    resolution_m: float | None = None
    """Default extraction resolution, metres."""
    neighbourhood_ratio: float = 1.6
    """c > 1: a chart sees the evidence in the ball of radius c * r."""
    normal_angle_deg: float = 45.0
    """Evidence whose normal differs more than this is another sheet's, in (0, 90)."""
    regime: RegimeName = "lazy"
    """How charts are fitted."""
    seed: int = 0
    """Seed of the random features and samples, 0 to 2^31 - 1."""
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)

    def __post_init__(self) -> None:
        for name, kind in _NESTED.items():
            value = getattr(self, name)
            _require(isinstance(value, kind), f"{name} as {kind.__name__}", type(value).__name__)
        for name in ("anchor_radius_m", "evidence_voxel_m", "resolution_m"):
            value = getattr(self, name)
            _require(
                value is None or (math.isfinite(value) and 1e-6 <= value <= 1e4),
                f"{name} in 1e-6..1e4 m, or none for automatic",
                value,
            )
        r, voxel = self.anchor_radius_m, self.evidence_voxel_m
        if r is not None and voxel is not None:
            _require(
                voxel * 2.999 <= r <= voxel * 16.001,
                "anchor_radius_m between 3 and 16 times evidence_voxel_m",
                f"anchor_radius_m={r}, evidence_voxel_m={voxel}",
                "Set only one of them; the other follows.",
            )
        _require(
            1 <= self.largest_radius_ratio <= 4, "largest_radius_ratio from 1 to 4", self.largest_radius_ratio
        )
        _require(
            1.0 < self.neighbourhood_ratio <= 3.0, "neighbourhood_ratio in (1, 3]", self.neighbourhood_ratio
        )
        _require(0 < self.normal_angle_deg < 90, "normal_angle_deg in (0, 90)", self.normal_angle_deg)
        _require(self.regime in get_args(RegimeName), f"regime one of {get_args(RegimeName)}", self.regime)
        _require(_whole(self.seed) and 0 <= self.seed < 2**31, "seed in 0..2^31-1", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able nested dictionaries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SceneConfig:
        """Build from nested dictionaries.

        Raises
        ------
        InvalidConfigError
            An unknown name, a wrong type or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        _require(not unknown, f"settings among {sorted(known)}", unknown, "Remove the unknown settings.")
        arguments = dict(values)
        try:
            for name, kind in _NESTED.items():
                if isinstance(arguments.get(name), dict):
                    arguments[name] = kind(**arguments[name])
            return cls(**arguments)
        except TypeError as error:
            raise InvalidConfigError("settings with the documented names and types", str(error)) from error

    def with_scale(self, anchor_radius_m: float, evidence_voxel_m: float, resolution_m: float) -> SceneConfig:
        """Return a copy with the automatic lengths filled in."""
        return replace(
            self,
            anchor_radius_m=anchor_radius_m,
            evidence_voxel_m=evidence_voxel_m,
            resolution_m=resolution_m,
        )
