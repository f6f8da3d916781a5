"""The summary and README's section, pictures, the removed box, the growing map."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from benchmarks import removed_box, scaling
from benchmarks.pictures import View, error_color, picture
from benchmarks.results import Check, Result, conclude
from benchmarks.summary import BEGIN, COLUMNS, END, collect, summary_markdown, update_readme, write_summary
from streamdgp.errors import DatasetError, InvalidInputError
from streamdgp.meshes import TriangleMesh
from streamdgp.simulate import DepthSensor
from streamdgp.simulate._shapes import box

_ROWS = [
    {"scene": "cow", "method": "streamdgp", "mean_mm": 0.3851, "f_score": 0.9954, "map_bytes": 19_770_000},
    {"scene": "cow", "method": "Open3D TSDF, 4 mm", "mean_mm": 1.45, "map_bytes": None},
]


def _write(out: Path, name: str, rows: list[dict[str, object]]) -> None:
    try:
        conclude(Result(name, [], [Check("gate", "x", 2, 1)], [], {"summary": rows}), out / f"{name}.json")
    except click.exceptions.Exit:
        pass


def test_the_summary_holds_the_rows_of_all_benchmarks(tmp_path: Path) -> None:
    _write(tmp_path, "street", [{"scene": "street", "method": "streamdgp", "p99_mm": 123.4, "p95_mm": "inf"}])
    _write(tmp_path, "object", [dict(row) for row in _ROWS])
    rows = write_summary(tmp_path)
    assert rows == collect(tmp_path)
    assert [row["scene"] for row in rows] == ["cow", "cow", "street"]
    assert json.loads((tmp_path / "summary.json").read_text()) == rows
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert any(line.startswith("| cow | streamdgp | 0.385 | - |") and "| 19.8 |" in line for line in lines)
    assert any(line.startswith("| street | streamdgp |") and "| inf | 123 |" in line for line in lines)
    assert sum(line.startswith("|  | the paper's") for line in lines) == 2, "empty where it was not run"
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(COLUMNS) + 3}


def test_a_scene_with_the_paper_s_procedure_has_no_empty_row_for_it() -> None:
    rows = [*_ROWS, {"scene": "cow", "method": "the paper's network and schedule", "mean_mm": 1.7}]
    assert summary_markdown(rows).count("the paper's") == 1
    assert summary_markdown(_ROWS, with_paper=False).count("the paper's") == 0


def test_readme_s_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme, summary = tmp_path / "README.md", tmp_path / "summary.json"
    readme.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    summary.write_text(json.dumps(_ROWS))
    update_readme(readme, summary)
    once = readme.read_text()
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "old figures" not in once
    assert "| cow | streamdgp | 0.385 |" in once
    update_readme(readme, summary)
    assert readme.read_text() == once


@pytest.mark.parametrize("text", ["", f"{BEGIN} only", f"{END} {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_readme_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    readme, summary = tmp_path / "README.md", tmp_path / "summary.json"
    readme.write_text(text)
    with pytest.raises(DatasetError, match="summary"):
        update_readme(readme, summary)
    summary.write_text(json.dumps(_ROWS))
    with pytest.raises(InvalidInputError, match="once each"):
        update_readme(readme, summary)
    assert readme.read_text() == text


def test_the_project_s_readme_has_the_markers() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert text.index(BEGIN) < text.index(END)


def test_errors_are_pale_red_and_all_between() -> None:
    none, worst, beyond = error_color(np.array([0.0, 0.004, 1.0]), 0.004)
    assert none.min() > 220
    assert worst.tolist() == beyond.tolist()
    assert worst[0] > 2 * worst[1:].max()


def test_a_picture_shows_where_a_mesh_is_wrong(tmp_path: Path) -> None:
    truth = box((0, 0, 0), (1, 1, 1))
    wrong = box((0, 0, 0), (1.2, 1.2, 1.2))
    path = tmp_path / "boxes.png"
    picture({"truth": truth, "same": truth, "wrong": wrong}, path, View(size=(80, 60)), truth, 0.05)
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape[1] == 3 * 80 + 2 * 6
    redness = image[34:94, :, 0] - image[34:94, :, 2]
    assert redness[:, :166].max() < 60
    assert (redness[:, 172:] > 60).sum() > 200


def test_a_box_is_gone_when_nothing_of_it_is_left_for_good() -> None:
    assert removed_box.frames_until_gone([0.9, 0.5, 0.004, 0.0]) == 2
    assert removed_box.frames_until_gone([0.9, 0.0, 0.02, 0.0]) == 3
    assert removed_box.frames_until_gone([0.9, 0.5]) == float("inf")
    thing = box((0, 0, 0), (1, 1, 1))
    points = np.array([[0.5, 0, 0], [0.5, 0.2, 0.1], [3.0, 0, 0], [4.0, 0, 0]])
    assert removed_box.share_left(thing, points, 0.01) == 0.5
    assert removed_box.share_left(TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), points, 1) == 0


def test_the_box_stands_for_half_the_stream() -> None:
    sensor = DepthSensor(64, 48, 58.0, max_range_m=4.0, dropout_share=0, sigma_m=0, sigma_per_m2=0)
    stream = removed_box.make_stream(12, sensor, 0.06)
    assert stream.removed_at == 6
    assert len(stream.box_m) > 500
    assert sum(stream.sees_place) >= 4
    low, high = stream.box_m.min(axis=0) - 0.01, stream.box_m.max(axis=0) + 0.01
    for k, frame in enumerate(stream.frames):
        camera = frame.intrinsics
        v, u = np.nonzero(frame.depth_m)
        z = frame.depth_m[v, u].astype(np.float64)
        local = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], axis=-1)
        points = local @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3]
        inside = ((points > low) & (points < high)).all(axis=1)
        assert inside.any() == (k < stream.removed_at and inside.any())
        if stream.sees_place[k] and k < stream.removed_at:
            assert inside.sum() > 20


def test_a_tunnel_is_the_same_for_everyone_and_goes_on() -> None:
    one, other = scaling.Tunnel(), scaling.Tunnel()
    first = one.frame(3, 0.1, 7)
    one.frame(900, 0.1, 7)
    assert np.array_equal(one.frame(3, 0.1, 7).depth_m, first.depth_m)
    far = other.frame(900, 0.1, 7)
    assert far.world_T_sensor[0, 3] == pytest.approx(90.0)
    assert (far.depth_m > 0).mean() > 0.5


def test_a_growing_map_is_measured_at_both_ends() -> None:
    result = scaling.run(growth=1.3, window=3, longest=40, fresh=4)
    held = {check.what: check for check in result.checks}
    assert held["times that the map grew"].holds
    assert held["tiles extracted again that were not stale"].value == 0
    assert held["stale tiles not extracted again"].value == 0
    figures = result.figures
    assert 0 < figures["stale_tiles"] < figures["tiles"]
    assert figures["new_charts_per_s"] > 0
    assert len(figures["seconds"]) == len(figures["charts"])
    assert figures["charts"][-1] >= 1.3 * np.mean(figures["charts"][5:8])
    assert all(len(table.columns) == len(row) for table in result.tables for row in table.rows)
