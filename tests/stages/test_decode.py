"""What becomes of a file that was changed after the manifest was read."""

import runpy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mer_ray.config import DataConfig, DenoiseConfig, ExtractConfig, FacesConfig, MediaConfig
from mer_ray.data import layouts, manifest
from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault
from mer_ray.pipelines import planning
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.faces import FacesStage

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
voice, talking_face, write_media = SAMPLES["voice"], SAMPLES["talking_face"], SAMPLES["write_media"]
MEDIA = MediaConfig()
STAGES = {
    "audio": DenoiseStage(MEDIA, DenoiseConfig(), 60.0),
    "faces": FacesStage(MEDIA, FacesConfig(), 60.0),
}


@pytest.fixture
def folder(tmp_path):
    """A media root with one clip, and beside it a secret of the same kinds."""
    for place in (tmp_path / "root", tmp_path / "secret"):
        (place / "openface_face" / "a").mkdir(parents=True)
        (place / "video").mkdir()
        write_media(place / "video" / "a.mp4", voice(1.0), talking_face((64, 64), 5))
        np.save(place / "openface_face" / "a" / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    pd.DataFrame({"clip_id": ["a"], "video": ["video/a.mp4"]}).to_csv(tmp_path / "root" / "clips.csv", index=False)
    pd.DataFrame({"name": ["a"], "discrete": ["happy"]}).to_csv(tmp_path / "root" / "track1_train.csv", index=False)
    return tmp_path


def read_clip(folder):
    return manifest.read(str(folder / "root" / "clips.csv"), require_labels=False).clips[0]


def read_layout(folder):
    data = DataConfig(layout="mertools", root=str(folder / "root"))
    return layouts.load(data, "auto", require_labels=False).manifest.clips[0]


def made(stage, clip):
    batch = pa.table({"clip_id": [clip.clip_id], "clip": pa.array([asdict(clip)])})
    stage.setup()
    return stage.process(stage.prepare(batch)).to_pylist()[0]


def swap(folder, name):
    """Put a symlink to the secret in the place of ``name``."""
    place = folder / "root" / name
    place.rename(place.with_name("moved"))
    place.symlink_to(folder / "secret" / name)


@pytest.mark.parametrize("name", ["video/a.mp4", "video"])
@pytest.mark.parametrize("step", STAGES)
def test_a_symlink_put_there_after_the_manifest_was_read_is_not_followed(folder, step, name):
    clip = read_clip(folder)
    assert made(STAGES[step], clip)["error"] is None
    swap(folder, name)
    row = made(STAGES[step], clip)
    assert row["error"] == "forbidden_format"
    assert "leads out of the media root" in row["detail"]


@pytest.mark.parametrize("name", ["openface_face/a/a.npy", "openface_face/a", "openface_face"])
def test_a_ready_face_array_is_not_followed_out_either(folder, name):
    clip = read_layout(folder)
    assert made(STAGES["faces"], clip)["present"]
    swap(folder, name)
    assert made(STAGES["faces"], clip)["error"] == "forbidden_format"


def test_a_media_root_by_a_symlink_is_a_media_root(folder):
    (folder / "alias").symlink_to(folder / "root")
    clip = manifest.read(str(folder / "root" / "clips.csv"), str(folder / "alias"), require_labels=False).clips[0]
    assert clip.media_root == str(folder / "root")
    (folder / "root").rename(folder / "elsewhere")
    (folder / "root").symlink_to(folder / "elsewhere")  # as on another node
    assert made(STAGES["audio"], clip)["present"]


def planned(folder, clip):
    settings = ExtractConfig.model_validate({"encoders": {"loud": {"plugin": "logmel"}, "shape": {"plugin": "hog"}}})
    return {step.stage.name: step for step in planning.plan(settings, [clip], Store(str(folder / "tables")))}


@pytest.mark.parametrize(("step", "name"), [("audio", "video/a.mp4"), ("faces", "openface_face/a/a.npy")])
def test_a_file_that_the_driver_saw_and_a_node_does_not_is_never_missing(folder, step, name):
    clip = read_layout(folder)
    seen = planned(folder, clip)[step].clips["a"]
    (folder / "root" / name).rename(folder / "moved")
    with pytest.raises(MachineFault, match=rf"{name} was there when the job began.*on every node"):
        made(STAGES[step], seen)
    again = planned(folder, clip)[step].clips["a"]
    assert made(STAGES[step], again)["error"] == "missing_file", "the driver does not see it either"


def test_the_root_and_what_the_driver_saw_are_in_no_key_and_no_digest(folder):
    clip = read_clip(folder)
    held, free = planned(folder, clip), planned(folder, replace(clip, media_root=None, seen=("elsewhere",)))
    assert held["audio"].clips["a"].seen == (clip.video,)
    for name, step in held.items():
        assert step.table.digest == free[name].table.digest
        assert step.keys == free[name].keys
        assert str(folder) not in str(step.table.spec)
