"""What all nodes are asked for before there is a row, and what a worker looks for before its first batch.

Two nodes that do not see the same are in ``tests/faults/test_nodes.py``.
"""

import pickle
import shutil
from dataclasses import replace

import pytest
import soundfile
from made_steps import rows_of, step_of
from media_samples import voice

from mer_ray.config import ExtractConfig, RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.encoders import hubert
from mer_ray.errors import ConfigError, MachineFault
from mer_ray.pipelines import planning
from mer_ray.runtime import materialise as materialising
from mer_ray.runtime import nodes
from mer_ray.runtime.materialise import materialise
from mer_ray.runtime.sight import PROBE, Place, Sight, leave_probe
from mer_ray.types import Clip, Split


def test_a_folder_is_known_by_its_probe_and_not_by_its_name(tmp_path):
    shared, other = Store(str(tmp_path / "shared")), Store(str(tmp_path / "other"))
    place = leave_probe(shared, "tables.dir")
    assert leave_probe(shared, "tables.dir") == place, "a second job makes no second one"
    assert place.fault() is None
    leave_probe(other, "tables.dir")
    hidden = tmp_path / "hidden"
    (tmp_path / "shared").rename(hidden)
    assert place.fault() == "what the driver left there is not there"
    (tmp_path / "other").rename(tmp_path / "shared")
    assert place.fault() == "it is another folder of this name"


def test_a_worker_looks_for_what_its_own_step_works_with(tmp_path):
    here, gone = Place(str(tmp_path), "r"), Place(str(tmp_path / "gone"), "name a copy")
    sight = pickle.loads(pickle.dumps(Sight((here,), {"loud": (gone,), "words": (here,)})))
    sight.look("words")
    sight.look("faces")
    with pytest.raises(MachineFault, match=r"gone is not seen there \(nothing is there\): name a copy"):
        sight.look("loud")


@pytest.fixture
def planned(tmp_path):
    """The steps of a speech model in a folder, on the sound of one clip, and what is to be seen of them."""
    media, model, tables = tmp_path / "a.wav", tmp_path / "model", Store(str(tmp_path / "tables"))
    soundfile.write(media, voice(1.0), 16_000)
    shutil.copytree(hubert.tiny().config.weights.source, model)
    encoder = {"plugin": "hubert", "options": {"weights": {"source": str(model)}}}
    settings = ExtractConfig.model_validate({"encoders": {"voice": encoder}})
    clips = [Clip("none", Split.UNLABELED, audio=str(tmp_path / "none.wav")), Clip("a", Split.TRAIN, audio=str(media))]
    return planning.plan(settings, clips, tables), Store(str(tmp_path / "run")), tables


def test_where_there_is_one_node_for_ever_nothing_is_asked_or_left(ray_cluster, planned):
    assert nodes.ask(*planned) == Sight()
    assert not planned[1].files()


def test_nodes_are_asked_for_folders_a_file_of_a_clip_and_weights_on_a_disk(
    ray_cluster, planned, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", "a cluster's, which may grow")
    sight = nodes.ask(*planned)
    assert [place.path for place in sight.shared] == [str(tmp_path / part / PROBE) for part in ("run", "tables")]
    assert {step: [place.path for place in places] for step, places in sight.steps.items()} == {
        "audio": [str(tmp_path / "a.wav")],
        "voice": [str(tmp_path / "model")],
    }
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ConfigError, match="not every node sees") as refused:
        nodes.ask(*planned)
    assert refused.value.exit_code == 2
    told = str(refused.value)
    assert "a.wav is not seen there (nothing is there): put the clips' media" in told
    assert "data.media_root" in told


def test_a_node_that_is_too_small_for_a_step_needs_nothing_of_it(ray_cluster, planned, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "a cluster's")
    (tmp_path / "a.wav").unlink()
    for step in planned[0]:
        step.stage.resources = replace(step.stage.resources, gpus=1.0)
    assert nodes.ask(*planned).steps["audio"]


def test_a_worker_that_does_not_see_its_tables_makes_no_row_and_blames_no_clip(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(materialising, "_FIRST_WAIT_SECONDS", 0.1)
    step, faults = step_of(tmp_path, {"a": "x", "b": "xx"}), []
    sight = Sight((Place(str(tmp_path / "tables" / PROBE), "set tables.dir", "token"),))
    with pytest.raises(MachineFault, match=r"on node .*tables/_probe is not seen .*: set tables\.dir.*same command"):
        materialise(step, {}, RuntimeConfig(max_machine_faults=1), on_fault=faults.append, sight=sight)
    assert len(faults) == 2
    assert not [name for name in step.table.store.files() if name.endswith(".parquet")]
    (tmp_path / "tables" / PROBE).write_text("token")
    assert materialise(step, {}, RuntimeConfig(), sight=sight).rows_made == 2
    assert [row["error"] for row in rows_of(step).values()] == [None, None]
