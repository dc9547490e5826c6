"""``gs://`` is refused wherever an address may stand, by what is to be given instead."""

import pickle

import in_process
import pandas as pd
import pytest

from mer_ray import config
from mer_ray.config import addresses
from mer_ray.data import sheet
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, ManifestError

ENDPOINT = "AWS_ENDPOINT_URL=https://storage.googleapis.com"
GIVEN = {
    "mine": [
        "run.dir",
        "tables.dir",
        "data.manifest",
        "data.media_root",
        "data.root",
        "data.features",
        "data.demo.dir",
        "submission.candidates",
        "encoders.voice.options.weights.source",
        "denoise.separator.options.weights.source",
    ],
    "extract": ["export.mertools", "export.huggingface"],
    "predict": ["model"],
    "why": ["run.dir", "html"],
    "tune": ["tune.mlflow_uri"],
    "train_encoder": ["task.options.encoder.options.weights.source"],
    "probe": ["run.dir"],
}
BESIDE = {
    "encoders.voice.options.weights.source": "encoders.voice.plugin=hubert",
    "denoise.separator.options.weights.source": "denoise.separator.name=mossformer2",
}
"""What a key needs beside it to be a config."""


@pytest.mark.parametrize(("job", "key"), [(job, key) for job, keys in GIVEN.items() for key in keys])
def test_a_job_refuses_it_by_the_key_and_says_what_to_set(job, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [f"{key}=gs://bucket/it?token=hush", *([BESIDE[key]] if key in BESIDE else [])]
    assert in_process.run(job, *given) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"{key}: gs:// is not read" in told
    assert ENDPOINT in told
    assert "not conditional" in told
    assert "hush" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("video", ["gs://bucket/a.mp4", "GS://bucket/a.mp4", "gcs://bucket/a.mp4"])
def test_a_clip_that_lies_there_is_refused_by_its_row(video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"clip_id": ["a", "b"], "video": [video, "b.mp4"], "label": ["x", "y"]}).to_csv("clips.csv")
    assert in_process.run("mine", "--config", "jobs/configs/folder.yaml", "data.manifest=clips.csv") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "row 2" in told
    assert ENDPOINT in told


def test_it_is_refused_from_python_too():
    with pytest.raises(ConfigError, match=ENDPOINT):
        config.MineConfig(run=config.RunConfig(dir="gs://bucket/run"))
    with pytest.raises(ConfigError, match=ENDPOINT):
        Store("gs://bucket/run")
    with pytest.raises(ManifestError, match=ENDPOINT):
        sheet.read("gs://bucket/clips.csv")


@pytest.mark.parametrize("address", ["s3://bucket/gs://", "./gs://", "gs/run", "tags://x", "runs/gs"])
def test_what_only_looks_like_it_is_taken(address):
    assert addresses.refusal(address) is None
    root = pickle.loads(pickle.dumps(Store(address))).root
    assert root
