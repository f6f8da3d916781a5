"""The experiments' own parts: kernels and spline limits in closed form, the stand-in for EAR, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from benchmarks.experiments.__main__ import EXPERIMENTS, main
from benchmarks.experiments.crease import height_patches
from benchmarks.experiments.distortion import singular_values
from benchmarks.experiments.edge_aware import resample
from benchmarks.experiments.interpolation import overlapping_pairs
from benchmarks.experiments.kernel import closed_form_kernel, empirical_kernel, wide_network
from benchmarks.experiments.report import document, markdown_table, rounded
from benchmarks.experiments.scaling import corner
from benchmarks.experiments.scans import Cloud
from benchmarks.experiments.spline import least_norm_curve, scaled_curve, train_curve
from benchmarks.experiments.surfaces import made_up_views
from streamdgp.network import Scaling

_SLOPE = 0.7


def _roof(sigma: float) -> Cloud:
    """A noisy crease along y with normals from planes through neighbours."""
    rng = np.random.default_rng(0)
    u = rng.uniform(-1, 1, (4000, 2))
    points = np.column_stack([u, -_SLOPE * np.abs(u[:, 0])]) + sigma * rng.normal(size=(4000, 3))
    around = points[cKDTree(points).query(points, k=16)[1]]
    normals = np.linalg.svd(around - around.mean(axis=1, keepdims=True), full_matrices=False)[2][:, 2]
    return Cloud(points, normals * np.sign(normals[:, 2:]))


def _from_roof(points: np.ndarray) -> np.ndarray:
    """Distances from the half-plane on the point's own side."""
    outward, up = np.array([1.0, -_SLOPE]) / np.hypot(1.0, _SLOPE)
    along = np.maximum(np.abs(points[:, 0]) * outward + points[:, 2] * up, 0.0)
    return np.hypot(np.abs(points[:, 0]) - along * outward, points[:, 2] - along * up)


def test_the_closed_form_is_the_mean_of_products_of_gradients() -> None:
    """The kernel's two expectations by brute force: 400,000 draws leave half a per cent."""
    v = torch.tensor([[0.3, -0.8], [0.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    whole, outer = closed_form_kernel(v, v)
    draws = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = draws @ torch.cat([v, torch.ones(3, 1)], dim=1).T
    relu, active = z.relu(), (z > 0).double()
    torch.testing.assert_close(relu.T @ relu / len(z), outer, rtol=0.01, atol=0.0)
    both = active.T @ active / len(z)
    expected = relu.T @ relu / len(z) + 1.0 + (0.5 * v @ v.T + 1.0) * both
    torch.testing.assert_close(whole, expected, rtol=0.01, atol=0.0)


def test_a_wide_network_has_the_closed_form_s_kernel() -> None:
    """Width 8192: one draw is off by n^-1/2, about one per cent; narrow ones by far more."""
    v = torch.tensor([[0.3, -0.8], [0.0, 0.2], [-0.7, 0.5]], dtype=torch.float64)
    exact, _ = closed_form_kernel(v, v)

    def error(width: int) -> float:
        kernel = empirical_kernel(v, wide_network(width), seed=1)
        same = torch.stack([kernel[:, a, :, a] for a in range(3)])
        other = kernel[:, 0, :, 1]
        return float(max((same - exact).abs().max(), other.abs().max()) / exact.abs().max())

    assert error(8192) < 0.04
    assert error(8192) < 0.5 * error(64)


def test_the_lazy_limit_is_the_natural_cubic_spline() -> None:
    x = np.array([-0.9, -0.5, -0.1, 0.0, 0.2, 0.3, 0.8])
    y, at = np.sin(4.0 * x), np.linspace(-0.9, 0.8, 200)
    spline = CubicSpline(x, y, bc_type="natural")(at)
    gaps = [float(np.abs(least_norm_curve(n, x, y, at) - spline).max()) for n in (128, 512, 2048)]
    assert gaps[2] < 1e-4
    # Second order: four times the features, a sixteenth of the gap; not evenly, as knots fall between kinks.
    assert gaps[2] < gaps[1] / 6 < gaps[0] / 36


@pytest.mark.parametrize("scaling", ["ntk", "mean_field"])
def test_training_fits_the_samples_and_moves_features_as_its_scaling_says(scaling: Scaling) -> None:
    x = np.linspace(-0.8, 0.8, 9)
    runs = [train_curve(x, corner(x), n, scaling, 1000, rate=0.4) for n in (32, 512)]
    moved = [float(np.median(np.abs(run.kink_path[-1] - run.kink_path[0]))) for run in runs]
    for run in runs:
        assert np.abs(scaled_curve(run.spec, run.row, x) - corner(x)).max() < 0.02
    # Sixteen times the width: a quarter of the move, or as much as before.
    ratio = moved[1] / moved[0]
    assert ratio < 0.5 if scaling == "ntk" else ratio > 0.6


def test_edge_aware_resampling_sharpens_a_noisy_crease() -> None:
    noisy = _roof(0.015)
    clean = resample(noisy)
    assert len(clean) > len(noisy)

    def near_edge(cloud: Cloud) -> np.ndarray:
        inside = (np.abs(cloud.points_m[:, 0]) < 0.1) & (np.abs(cloud.points_m[:, 1]) < 0.9)
        return _from_roof(cloud.points_m[inside])

    assert near_edge(clean).mean() < 0.6 * near_edge(noisy).mean()
    assert _from_roof(clean.points_m).mean() < 0.5 * _from_roof(noisy.points_m).mean()
    np.testing.assert_allclose(np.linalg.norm(clean.normals, axis=1), 1.0, atol=1e-9)


def test_patches_of_a_crease_lie_on_it_and_are_as_uneven_as_asked() -> None:
    even, uneven = (height_patches("crease", 24, 150, 1e-3, ratio) for ratio in (1.0, 20.0))
    for patches in (even, uneven):
        assert float(patches.evidence.points.norm(dim=2).max()) < 1.01
        assert patches.exact.shape == (24, 1024, 3)
    # Along x the density falls off, so the mean of the points moves to one side of the anchor.
    assert float(uneven.evidence.points.mean(dim=1).norm(dim=1).median()) > 0.25
    assert float(even.evidence.points.mean(dim=1).norm(dim=1).median()) < 0.2


def test_both_charts_of_a_pair_see_the_same_points() -> None:
    pairs = overlapping_pairs(30.0, 0.05)
    world = pairs.world(pairs.patches.points.double())
    rows = pairs.common.clamp_min(0)[..., None].expand(-1, -1, 3)
    shared = world.gather(1, rows)
    gap = (shared[0::2] - shared[1::2]).norm(dim=2)[pairs.common[0::2] >= 0]
    assert len(gap) > 300
    assert float(gap.max()) < 1e-5
    clean = pairs.world(pairs.clean.double())
    torch.testing.assert_close(clean[0::2], clean[1::2], atol=1e-5, rtol=0.0)


def test_singular_values_are_numpy_s() -> None:
    jacobian = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = np.linalg.svd(jacobian.numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(jacobian).numpy(), expected, atol=1e-7)


def test_made_up_views_of_a_sphere_are_on_the_sphere() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(8000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    frame = next(made_up_views(Cloud(0.04 * normals, normals), 0.0015))
    v, u = np.nonzero(frame.depth_m)
    k = frame.intrinsics
    z = frame.depth_m[v, u].astype(np.float64)
    camera = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=1)
    radius = np.linalg.norm(camera @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3], axis=1)
    assert len(z) > 1000
    # Planes stand in for the sphere over two pixels: a tenth of the spacing; flat splats would be off by all.
    assert np.quantile(np.abs(radius - 0.04), 0.5) < 2e-4
    assert np.quantile(np.abs(radius - 0.04), 0.95) < 4e-4


def test_figures_are_plain_and_short() -> None:
    given = {"a": np.float64(1 / 3), "b": [np.int64(2), float("nan")], "c": np.array([1.0, 2.5])}
    assert rounded(given) == {"a": 0.33333, "b": [2, None], "c": [1.0, 2.5]}
    assert markdown_table(["", "x"], [["a", "1"]]) == "|  | x |\n| --- | ---: |\n| a | 1 |"


def test_the_page_is_made_of_what_was_measured() -> None:
    page = document(EXPERIMENTS, {})
    assert page.startswith("# ")
    assert "\n## " not in page


def test_one_experiment_through_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--only", "kernel", "--out", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "made" / "kernel.png") as picture:
        assert picture.size[0] == 900
    assert (tmp_path / "made" / "kernel.png").stat().st_size < 120_000
    found = json.loads((tmp_path / "made" / "figures.json").read_text())
    assert -0.6 < found["kernel"]["figures"]["slope"] < -0.4
    page = (tmp_path / "made.md").read_text()
    assert "](made/kernel.png)" in page
    again = CliRunner().invoke(main, ["--text-only", "--out", str(tmp_path / "made")])
    assert again.exit_code == 0
    assert (tmp_path / "made.md").read_text() == page


def test_an_unknown_experiment_is_refused() -> None:
    assert CliRunner().invoke(main, ["--only", "nothing"]).exit_code == 2
