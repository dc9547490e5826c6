"""Every task by its shipped tiny config; and encoders that were trained are extracted and mined with."""

import json

import made_job
import numpy as np
import pyarrow.parquet as pq
import pytest

from mer_ray import config, registry
from mer_ray.config import MineConfig, TrainConfig
from mer_ray.pipelines import train_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module", params=registry.names("tasks"))
def trained(request, shared, ray_cluster):
    """The run directory of a task, its clips and tables shared with the others'."""
    folder = shared / request.param
    places = [f"run.dir={folder}", f"data.demo.dir={shared}/clips", f"tables.dir={shared}/tables"]
    assert train_encoder.run(config.load(TrainConfig, f"train/{request.param}.tiny.yaml", places)) == 0
    return folder


def test_a_task_trains_on_two_workers_and_its_loss_falls(trained):
    events = [json.loads(line) for line in (trained / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "training_epoch"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert (trained / "encoder.yaml").exists()


def test_a_recognisers_job_leaves_what_transcribes_by_the_words_of_its_clips(trained):
    if registry.find("tasks", trained.name).Task.makes == "recognisers":
        transcribe = config.load(MineConfig, trained / "encoder.yaml").transcribe
        recogniser = registry.build("recognisers", transcribe.recogniser.name, transcribe.recogniser.options)
        recogniser.load()
        assert transcribe.enabled
        assert recogniser.config.decoder == "beam"
        assert len((trained / "weights/lexicon.txt").read_text().splitlines()) > 10


def test_what_was_trained_is_extracted_and_mined_with(shared):
    """Adapted speech and prompted faces, each trained by its job on the same clips."""
    entries = [f"{shared}/{task}/encoder.yaml" for task in ("speech_adapters", "emovclip")]
    done = made_job.mine(
        *(part for entry in entries for part in ("--config", entry)),
        "data.demo={num_clips: 48, labelled: 0.5}",
        f"data.demo.dir={shared}/clips",
        f"tables.dir={shared}/tables",
        "evaluation.ablations=false",
        "max_error_fraction=1.0",
        "mining.rounds=1",
        "fit.epochs=5",
        f"run.dir={shared}/mined",
        cwd=shared,
    )
    assert done.returncode == 0, done.stderr
    predictions = pq.read_table(shared / "mined/predictions.parquet")
    assert {"weight_audio", "weight_video"} <= set(predictions.column_names)
    assert np.isfinite(predictions["confidence"].to_numpy()).all()
    tables = {path.name for path in (shared / "tables").iterdir()}
    assert {"adapted", "emovclip"} <= tables
