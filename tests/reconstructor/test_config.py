"""Settings: validated once, automatic values chosen from the first frame and recorded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from streamdgp.config import ConsistencyConfig, EvidenceConfig, FitConfig, SceneConfig, SurfaceConfig
from streamdgp.errors import InvalidConfigError
from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.frames.orient import orient
from streamdgp.reconstructor import Reconstructor
from streamdgp.scale import resolve_scale
from tests.reference.shapes import Plane, depth_frame, look_at, range_frame


def _wall(distance_m: float, width: int = 80) -> DepthFrame:
    plane = Plane((0, 0, 0), (0, 0, 1))
    return depth_frame(
        plane, look_at((0, 0, distance_m), (0, 0.01, 0)), width=width, height=60, focal=float(width)
    )


def test_defaults_are_automatic_and_survive_json() -> None:
    config = SceneConfig()
    assert config.anchor_radius_m is config.evidence_voxel_m is config.resolution_m is None
    values = json.loads(json.dumps(config.to_dict()))
    assert SceneConfig.from_dict(values) == config
    assert SceneConfig.from_dict({}) == config
    full = SceneConfig(
        anchor_radius_m=0.04, evidence_voxel_m=0.01, resolution_m=0.005, regime="active", seed=7,
        evidence=EvidenceConfig(0.2, 16), fit=FitConfig(width=32, features=20, smoothness=0.5),
        consistency=ConsistencyConfig(2, 0.5), surface=SurfaceConfig(8, 0.8),
    )  # fmt: skip
    assert SceneConfig.from_dict(json.loads(json.dumps(full.to_dict()))) == full


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"anchor_radius_m": 0.0}, "anchor_radius_m"),
        ({"anchor_radius_m": -1.0}, "anchor_radius_m"),
        ({"evidence_voxel_m": float("nan")}, "evidence_voxel_m"),
        ({"resolution_m": float("inf")}, "resolution_m"),
        ({"resolution_m": 1e-9}, "1e-6"),
        ({"anchor_radius_m": 0.02, "evidence_voxel_m": 0.01}, "between 3 and 16"),
        ({"anchor_radius_m": 0.2, "evidence_voxel_m": 0.01}, "between 3 and 16"),
        ({"neighbourhood_ratio": 1.0}, "neighbourhood_ratio"),
        ({"neighbourhood_ratio": float("nan")}, "neighbourhood_ratio"),
        ({"normal_angle_deg": 90.0}, "normal_angle_deg"),
        ({"regime": "lasy"}, "lazy"),
        ({"regime": 3}, "regime"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"radius": 1.0}, "radius"),
        ({"seed": "one"}, "one"),
        ({"anchor_radius_m": "0.1"}, "types"),
        ({"fit": {"width": 2}}, "width in 4..1024"),
        ({"fit": {"max_samples": 5}}, "max_samples"),
        ({"fit": {"refit_growth": 1.0}}, "refit_growth"),
        ({"fit": {"smoothness": 0.4}}, "smoothness"),
        ({"fit": {"smoothness": float("inf")}}, "smoothness"),
        ({"fit": {"features": 0}}, "features in 1..64"),
        ({"fit": {"features": 65}}, "features in 1..64"),
        ({"fit": {"gcv_gamma": 1.2}}, "gcv_gamma"),
        ({"fit": {"breadth": 64}}, "breadth"),
        ({"evidence": {"min_incidence_cos": 1.0}}, "min_incidence_cos"),
        ({"evidence": {"most_per_view": 0}}, "most_per_view"),
        ({"evidence": {"most_per_view": 256}}, "most_per_view"),
        ({"evidence": {"most_per_view": 16.0}}, "most_per_view"),
        ({"evidence": {"most_per_view": True}}, "most_per_view"),
        ({"evidence": {"pose_error_vox": -0.1}}, "pose_error_vox"),
        ({"evidence": {"pose_error_vox": float("nan")}}, "pose_error_vox"),
        ({"evidence": {"view_mass_cap": 32.0}}, "view_mass_cap"),
        ({"consistency": {"sweeps": 9}}, "sweeps"),
        ({"consistency": {"weight": -1.0}}, "weight"),
        ({"surface": {"tile_cells": 2}}, "tile_cells"),
        ({"surface": {"blend_radius": 1.5}}, "blend_radius"),
        # What JSON may bring that only fails much later, in the middle of a stream.
        ({"fit": 3}, "fit"),
        ({"surface": None}, "surface"),
        ({"evidence": []}, "evidence"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"fit": {"width": 64.5}}, "width"),
        ({"fit": {"features": 26.5}}, "features"),
        ({"fit": {"max_samples": 256.0}}, "max_samples"),
        ({"consistency": {"sweeps": 1.5}}, "sweeps"),
        ({"consistency": {"weight": float("inf")}}, "weight"),
        ({"surface": {"tile_cells": 16.5}}, "tile_cells"),
    ],
)
def test_unusable_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        SceneConfig.from_dict(values)
    assert words in str(caught.value)
    assert caught.value.reason == "INVALID_CONFIG"


def test_scale_follows_the_sensor() -> None:
    """Coarser pixels or more noise make a coarser voxel; r and resolution follow from it."""
    near, far = (orient(_wall(d), 0.1) for d in (0.5, 3.0))
    a, b = resolve_scale(SceneConfig(), near), resolve_scale(SceneConfig(), far)
    assert a.evidence_voxel_m is not None
    assert b.evidence_voxel_m is not None
    assert b.evidence_voxel_m > 3 * a.evidence_voxel_m
    for config, points in ((a, near), (b, far)):
        assert config.evidence_voxel_m is not None
        assert config.anchor_radius_m is not None
        assert 0.5 * points.spacing_m <= config.evidence_voxel_m <= 3 * max(points.spacing_m, points.noise_m)
        assert 3 <= config.anchor_radius_m / config.evidence_voxel_m <= 16
        assert config.resolution_m is not None
        assert 0.5 <= config.resolution_m / config.evidence_voxel_m <= 1.5
    dense = resolve_scale(SceneConfig(), orient(_wall(0.5, 160), 0.1))
    assert dense.evidence_voxel_m is not None
    assert dense.evidence_voxel_m < a.evidence_voxel_m


def test_scale_of_a_lidar() -> None:
    pose = np.eye(4)
    pose[2, 3] = 1.8
    points = orient(range_frame(Plane((0, 0, 0), (0, 0, 1)), pose, beams=32, columns=720), 0.1)
    config = resolve_scale(SceneConfig(), points)
    assert config.evidence_voxel_m is not None
    assert 0.02 < config.evidence_voxel_m < 0.5


@pytest.mark.parametrize(
    "given",
    [
        {"anchor_radius_m": 0.08},
        {"evidence_voxel_m": 0.015},
        {"resolution_m": 0.004},
        {"anchor_radius_m": 0.08, "evidence_voxel_m": 0.01},
        {"anchor_radius_m": 0.08, "resolution_m": 0.02},
    ],
)
def test_what_is_given_is_kept(given: dict[str, float]) -> None:
    points = orient(_wall(0.7), 0.1)
    config = resolve_scale(SceneConfig(**given), points)  # type: ignore[arg-type]
    for name, value in given.items():
        assert getattr(config, name) == value
    assert config.anchor_radius_m is not None
    assert config.evidence_voxel_m is not None
    assert 2.99 <= config.anchor_radius_m / config.evidence_voxel_m <= 16.01
    assert resolve_scale(config, orient(_wall(3.0), 0.1)) == config, "later frames change nothing"


def test_the_reconstructor_records_what_it_chose() -> None:
    r = Reconstructor(SceneConfig())
    assert r.surface().resolution_m is None
    r.integrate(DepthFrame(np.zeros((60, 80), np.float32), Intrinsics(80, 80, 39.5, 29.5), np.eye(4)))
    assert r.config.evidence_voxel_m is None
    r.integrate(_wall(0.7))
    chosen = r.config
    assert None not in (chosen.evidence_voxel_m, chosen.anchor_radius_m, chosen.resolution_m)
    r.integrate(_wall(2.0))
    assert r.config == chosen
    assert r.surface().resolution_m == chosen.resolution_m
    assert SceneConfig.from_dict(r.changes().metadata["config"]) == chosen
