"""A scene that an earlier version wrote opens, looks as it did, and goes on.

``data/schema2.sdgp`` is such a scene, written by the last server that kept schema 2 (three frames of the
sphere, voxels of 3 cm) and exported; ``data/schema2-vertices.npz`` is what that server answered then: every
fifth vertex of the mesh of revisions 2 and 3.
"""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.spatial import cKDTree

from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.atlas.changes import AtlasChanges, AtlasState
from streamdgp.config import FitConfig, SceneConfig
from streamdgp.errors import StorageError
from streamdgp.reconstructor import Reconstructor
from streamdgp.store import AtlasStore, migrate, migrate_settings
from streamdgp.v1 import scene_service_pb2, surface_service_pb2
from streamdgp.wire import frame_from_proto, tile_from_proto
from streamdgp_client._mesh import weld
from streamdgp_server.check import check_data
from streamdgp_server.importing import import_scene
from streamdgp_server.scene_engine import open_scene
from tests.reference.mesh import border_vertices
from tests.reference.scans import scan_frames
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes

DATA = Path(__file__).parent / "data"
VOXEL_M = 0.03


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory with the old scene."""
    import_scene(tmp_path / "data", DATA / "schema2.sdgp")
    return tmp_path / "data"


@pytest.fixture
def state(old: Path) -> AtlasState:
    """Its newest revision."""
    with closing(AtlasStore.open(old / "scenes" / "test" / "atlas", read_only=True)) as store:
        return store.read().state


def assert_near(responses: list[surface_service_pb2.GetMeshResponse], revision: int) -> None:
    """Half precision and steps move the surface by far less than anyone sees.

    Away from its border, that is: today's meshes are cut where support ends, the old ones at the lattice.
    """
    tiles = [tile_from_proto(r.tile) for r in responses if r.HasField("tile")]
    mesh = weld(tiles, revision, VOXEL_M)
    before = np.load(DATA / "schema2-vertices.npz")[f"revision{revision}"]
    from_border_vox = cKDTree(mesh.vertices[border_vertices(mesh)]).query(before)[0] / VOXEL_M
    inner = before[from_border_vox > 1]
    assert len(inner) > 0.8 * len(before)
    moved_vox = cKDTree(mesh.vertices).query(inner)[0] / VOXEL_M
    assert np.quantile(moved_vox, 0.99) < 1 / 300
    assert moved_vox.max() < 1 / 30  # a vertex that slides along the surface, at an edge


def test_an_old_scene_opens_looks_the_same_and_goes_on(old: Path) -> None:
    assert [(one.schema, one.fault) for one in check_data(old)] == [(2, "")]
    request = scene_service_pb2.ListRevisionsRequest(scene="scenes/test")
    with ServerProcess(old) as server:
        revision, newest = mesh_bytes(get_mesh(server))
        assert revision == 4
        assert_near(get_mesh(server), 3)
        assert mesh_bytes(get_mesh(server, revision=3)) == (3, newest)  # the old one, migrated as it is read
        assert_near(get_mesh(server, revision=2), 2)
        messages = [info.message for info in server.scenes.ListRevisions(request).revisions]
        assert messages == ["schema 2 to 5", "revision 3", "revision 2", "revision 1"]
        stream = Stream(server)
        assert stream.opened().next_sequence_number == 4
        stream.send_frames(make_frame(4, angle_rad=1.6))
        stream.finish()
        assert stream.rejected == []
        revision, after = mesh_bytes(get_mesh(server))
        assert revision == 5
        assert after != newest
    (found,) = check_data(old, all_revisions=True)
    assert (found.schema, found.revisions, found.fault) == (5, 5, "")


def test_it_is_migrated_once(old: Path) -> None:
    for _ in range(2):
        opened = open_scene(old / "scenes" / "test", "cpu", 1 << 20)
        opened.close()
        assert opened.published.revision == 4


def test_the_migrated_state_is_one_of_today(state: AtlasState) -> None:
    """The same tables, columns, types and rows as the engine keeps, and a restart changes nothing of it."""
    before = copy.deepcopy(state)
    migrated = migrate(state)
    assert state.metadata == before.metadata  # pure
    engine = Reconstructor()
    engine.integrate(frame_from_proto(make_frame(1)))
    fresh = engine.changes()
    assert migrated.metadata.keys() == fresh.metadata.keys()
    assert migrated.tables.keys() == fresh.tables.keys()
    for table, columns in migrated.tables.items():
        wanted = fresh.tables[table].columns
        assert {
            name: (one.dtype, one.shape[1:]) for name, one in columns.items() if name != "parameters"
        } == {name: (one.dtype, one.shape[1:]) for name, one in wanted.items() if name != "parameters"}
        assert len({len(column) for column in columns.values()}) == 1
    assert migrated.tables["charts"]["parameters"].dtype == np.float16
    assert migrate(migrated) is migrated
    again = Reconstructor.restore(migrated).changes()
    for table, columns in migrated.tables.items():
        for name, values in columns.items():
            assert again.tables[table].columns[name].tobytes() == values.tobytes(), name


def test_values_are_the_nearest_steps(state: AtlasState) -> None:
    new = migrate(state).tables
    old, surfels = state.tables["surfels"], new["surfels"]
    assert np.abs(surfels["offset"] / 2048 - old["offset_vox"]).max() <= 0.5 / 2048
    assert np.abs(surfels["normal"] / 127 - old["normal"]).max() <= 0.5 / 127 + 1e-6
    assert np.abs(surfels["weight"] / old["weight"] - 1).max() <= 2.0**-9
    np.testing.assert_array_equal(surfels["count"], old["count"])
    charts, normal = new["charts"], state.tables["charts"]["rotation"][:, :, 2]
    assert np.abs(charts["normal"] / 32767 - normal).max() <= 0.5 / 32767
    kept = state.tables["charts"]["parameters"]
    assert np.abs(charts["parameters"] - kept).max() <= np.abs(kept).max() * 2.0**-11


def test_schema_3_has_charts_of_one_size() -> None:
    """As the engine wrote it, less what schema 4 added: the next frame gives the same bits."""
    fit = FitConfig(most_waiting=1)
    engine = Reconstructor(SceneConfig(evidence_voxel_m=VOXEL_M, largest_radius_ratio=1.0, fit=fit))
    for k in (1, 2):
        engine.integrate(frame_from_proto(make_frame(k)))
    old = _as_schema_4(engine)
    assert not old.tables["charts"].pop("level").any()
    del old.metadata["config"]["largest_radius_ratio"]
    old.metadata["schema"] = 3
    again = Reconstructor.restore(migrate(old))
    for one in (engine, again):
        one.integrate(frame_from_proto(make_frame(3, angle_rad=1.6)))
    assert again.config == engine.config
    assert state_bytes(snapshot_state(again)) == state_bytes(snapshot_state(engine))


def test_schema_4_looks_at_charts_in_every_frame() -> None:
    """As the engine wrote it, less what schema 5 added: the next frames give the same bits."""
    engine = Reconstructor(SceneConfig(evidence_voxel_m=0.01, fit=FitConfig(most_waiting=1)))
    frames = scan_frames("torus", True)
    engine.integrate(frames[0])
    old = _as_schema_4(engine)
    # The camera stands still: by today's settings charts would wait.
    assert Reconstructor().config.fit.most_waiting > 1
    again = Reconstructor.restore(migrate(old))
    for one in (engine, again):
        # The first of them would have its turn anyway: no pose is known.
        for _ in range(2):
            assert one.integrate(frames[0]).stages_s.keys() > {"evidence", "fit"}
    assert state_bytes(snapshot_state(again)) == state_bytes(snapshot_state(engine))


def _as_schema_4(engine: Reconstructor) -> AtlasState:
    """A state whose surfels do not wait, without what schema 5 added."""
    old = copy.deepcopy(snapshot_state(engine))
    assert not old.arrays.pop("waiting_surfels").size
    assert not old.arrays.pop("waiting_gained").size
    del old.metadata["turns"]
    del old.metadata["config"]["fit"]["most_waiting"]
    old.metadata["schema"] = 4
    return old


def test_settings_keep_what_they_meant() -> None:
    assert migrate_settings({"evidence": {"view_mass_cap": 24.4}}) == {"evidence": {"most_per_view": 24}}
    assert migrate_settings({"evidence": {"view_mass_cap": 1e9}}) == {"evidence": {"most_per_view": 255}}
    for config in ({}, {"evidence": {"most_per_view": 7}}, {"seed": 3}, {"evidence": None}):
        assert migrate_settings(config) == config


def test_what_is_not_as_its_schema_says_is_refused(state: AtlasState) -> None:
    del state.tables["surfels"]["view_mass"]
    with pytest.raises(StorageError, match=r"table surfels of schema 2 with the columns .*view_mass"):
        migrate(state)


def test_an_empty_old_scene_migrates(state: AtlasState) -> None:
    empty = AtlasState({}, {}, {**state.metadata, "has_map": False, "frame_count": 0})
    assert Reconstructor.restore(migrate(empty)).frame_count == 0


def test_a_newer_schema_is_refused_and_named(state: AtlasState, tmp_path: Path) -> None:
    newer = AtlasState(state.tables, state.arrays, {**state.metadata, "schema": 99})
    assert migrate(newer) is newer
    with pytest.raises(StorageError, match=r"^an atlas of schema \d+; got schema 99\. Use the version"):
        Reconstructor.restore(migrate(newer))
    with closing(AtlasStore.create(tmp_path / "atlas")) as store:
        store.commit(AtlasChanges({}, {}, {}), {"next": 0})
        session = store._repository.writable_session("main")
        zarr.open_group(session.store, mode="a").attrs["schema_version"] = 7
        session.commit(
            "newer", metadata={"revision": 2, "created": "2026-01-01T00:00+00:00", "frames": 0, "charts": 0}
        )
    with (
        closing(AtlasStore.open(tmp_path / "atlas")) as store,
        pytest.raises(StorageError, match=r"streamdgp-atlas version 2 in .*got streamdgp-atlas version 7\."),
    ):
        store.read()


def test_a_newer_revision_is_not_given_up_as_if_it_were_damaged(old: Path) -> None:
    """The one before could be read, and its frames are in the log; but nothing is broken."""
    directory = old / "scenes" / "test"
    with closing(AtlasStore.open(directory / "atlas")) as store:
        session = store._repository.writable_session("main")
        zarr.open_group(session.store, mode="a").attrs["schema_version"] = 7
        facts = {"revision": 4, "created": "2026-01-01T00:00+00:00", "frames": 3, "charts": 0}
        session.commit("newer", metadata=facts)
    with pytest.raises(StorageError, match="version 7"):
        open_scene(directory, "cpu", 1 << 20)
    with closing(AtlasStore.open(directory / "atlas")) as store:
        assert store.latest_revision == 4
