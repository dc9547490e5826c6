"""The training job: what is refused before anything is started, and a tiny task from clips to weights."""

import json
import os
import subprocess
import sys

import made_job
import numpy as np
import pytest
import ray
import soundfile
import yaml
from rich.console import Console
from safetensors.numpy import load_file

from mer_ray import config
from mer_ray.config import EncoderConfig, TrainConfig
from mer_ray.errors import LearnerError
from mer_ray.pipelines import command, features, planning, source, train_encoder
from mer_ray.runtime.journal import Journal
from mer_ray.stages.encode import EncodeStage
from mer_ray.train.data import batches
from mer_ray.train.order import Once, Share

TINY = "train/speech_finetune.tiny.yaml"


def run(capsys, *arguments):
    code = command.main(job="train_encoder", about="", model=TrainConfig, file=TINY, arguments=[*arguments])
    told = capsys.readouterr()
    return code, told.out + told.err


def manifest(folder, *labels):
    """Clips of sound that is never read."""
    (folder / "a.wav").write_bytes(b"RIFF")
    rows = [f"clip{i},a.wav,{label},train" for i, label in enumerate(labels)]
    (folder / "clips.csv").write_text("\n".join(["clip_id,audio,label,split", *rows]) + "\n")
    return f"data={{layout: manifest, manifest: {folder}/clips.csv}}"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["task.name=speech_fintune"], "speech_finetune"),
        (["task.name=''"], "task.name is not set; there are: emovclip"),
        (["task.options.encoder={plugin: logmel}"], "no model of its own"),
        (["task.options.encoder={plugin: hubert, options: {weights: {source: ./nowhere}}}"], "nowhere"),
        (["task.options.tunning={how: full}"], "tuning"),
        (["task.options.tuning={how: prompts}", "task.options.tuning.layers=[2, 3]"], "first layers"),
        (["optimization.batch_size=10"], "10 cannot be shared out: 2 workers with micro_batch=4"),
        (["optimization.offload=parameters"], "needs zero_stage=3"),
        (["optimization.zero_stage=0", "optimization.precision=fp16"], "zero_stage=1 or more"),
        (["log.loggers=[wandb]"], "log.loggers"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_started(tmp_path, capsys, arguments, why):
    code, told = run(
        capsys, f"run.dir={tmp_path}/run", manifest(tmp_path, "anger", "joy"), "labels=[anger, joy]", *arguments
    )
    assert code == 2, told
    assert why in told
    assert not (tmp_path / "run/events.jsonl").exists()


@pytest.mark.parametrize(
    ("cores", "told", "needed"), [(1, [], 2), (8, ["runtime.num_cpus=1"], 2), (2, ["workers=4"], 3)]
)
def test_workers_that_leave_no_cpu_to_load_clips_are_refused(tmp_path, capsys, monkeypatch, cores, told, needed):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    told = [f"optimization.{one}" if one.startswith("workers") else one for one in told]
    said = ["labels=[anger, joy]", "optimization.batch_size=16", "optimization.micro_batch=4", *told]
    code, printed = run(capsys, f"run.dir={tmp_path}/run", manifest(tmp_path, "anger", "joy"), *said)
    assert code == 2, printed
    assert f"set runtime.num_cpus={needed} " in printed


def test_clips_that_teach_nothing_are_refused(tmp_path, capsys):
    code, told = run(capsys, f"run.dir={tmp_path}/run", manifest(tmp_path, "anger", "joy"), "labels=[anger, joy, fear]")
    assert (code, "no clip to learn the class from: fear" in told) == (2, True)
    code, told = run(capsys, f"run.dir={tmp_path}/run", manifest(tmp_path, "", ""), "labels=[anger, joy]")
    assert (code, "label" in told) == (2, True)


def test_without_deepspeed_it_is_said_what_is_missing():
    script = """
import sys
sys.modules["deepspeed"] = None
from mer_ray.config import TrainConfig
from mer_ray.pipelines import command
file = "train/speech_finetune.tiny.yaml"
sys.exit(command.main(job="train_encoder", about="", model=TrainConfig, file=file, arguments=[]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "training needs deepspeed" in done.stderr


def prepared(folder, file, clips):
    """What workers would be given to train on clips, each its loudness and text; the task; what was told."""
    rng = np.random.default_rng(0)
    rows = ["clip_id,audio,text,label,split"]
    for i, (loud, text) in enumerate(clips):
        soundfile.write(folder / f"clip{i}.wav", loud * rng.uniform(-1, 1, 16_000), 16_000, subtype="FLOAT")
        rows.append(f"clip{i},clip{i}.wav,{text},{('anger', 'joy')[i % 2]},train")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    data = f"data={{layout: manifest, manifest: {folder}/clips.csv}}"
    settings = config.load(TrainConfig, file, [f"run.dir={folder}/run", data, "labels=[anger, joy]"])
    run_dir, tables = source.stores(settings)
    console, journal = Console(quiet=True), Journal(run_dir)
    read, task = train_encoder._brought(settings, run_dir, console)
    made = features.run(planning.plan(settings, read.clips, tables, task.reads), settings, journal, console)
    return train_encoder._job(settings, read, task, made, run_dir, journal), task, journal.events()


def test_silent_clips_are_left_out_of_what_sound_is_needed_for(tmp_path, ray_cluster):
    clips = [(1e-4 if i in (2, 5) else 0.1, "hello") for i in range(8)]
    job, _, events = prepared(tmp_path, "train/joint_audio_text.tiny.yaml", clips)
    assert job.clips.clip_ids == tuple(f"clip{i}" for i in (0, 1, 3, 4, 6, 7))
    assert job.clips.label.tolist() == [0, 1, 1, 0, 0, 1]
    (told,) = [event for event in events if event["event"] == "clips_filtered"]
    assert told["left_out"] == 2


def test_a_text_that_is_longer_than_the_model_takes_is_named(tmp_path, ray_cluster):
    clips = [(0.1, "such a day " * (1000 if i == 3 else 1)) for i in range(8)]
    job, task, _ = prepared(tmp_path, "train/text_finetune.tiny.yaml", clips)
    task.build()
    every = Once(np.arange(8), Share(0, 1, 4), 0)
    with pytest.raises(LearnerError, match=r"clip clip3: it is longer than the model takes at once.*; leave it out"):
        list(batches(job.clips, task, every))


def train(folder, *arguments):
    """The tiny task as a user trains it."""
    return made_job.run("train_encoder", "--config", TINY, f"run.dir={folder}", *arguments, cwd=folder)


def events(folder, kind):
    told = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event for event in told if event["event"] == f"training_{kind}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny task, in a process of its own, with its curves."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(folder, "optimization.epochs=3", "log.loggers=[tensorboard]")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_it_stops_when_it_gets_no_better_and_leaves_the_best(tmp_path):
    never = [f"optimization.{told}" for told in ("epochs=9", "patience=2", "learning_rate=1.0e-30")]
    done = train(tmp_path, *never)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [event["epoch"] for event in events(tmp_path, "epoch")] == [1, 2, 3]
    (scored,) = events(tmp_path, "scored")
    assert scored["step"] == events(tmp_path, "epoch")[0]["step"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_it_with_advice(tmp_path):
    done = train(tmp_path, "optimization.learning_rate=1.0e+30")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "optimization.learning_rate" in done.stderr
    assert len(events(tmp_path, "started")) == 1, "another attempt comes to the same"
    assert not (tmp_path / "encoder.yaml").exists()


@pytest.mark.slow
def test_it_leaves_weights_that_the_encoder_loads(trained):
    folder, told = trained
    entry = yaml.safe_load((folder / "encoder.yaml").read_text())
    assert yaml.safe_dump(entry, sort_keys=False).strip() in told
    stage = EncodeStage("speech", EncoderConfig(**entry["encoders"]["speech"]), 60.0)
    stage.setup()
    before, after = load_file(folder / "tiny/hubert/model.safetensors"), load_file(folder / "weights/model.safetensors")
    assert before.keys() == after.keys()
    assert any(np.abs(before[name] - after[name]).max() > 1e-4 for name in before)


@pytest.mark.slow
def test_a_mining_job_takes_its_entry_as_a_second_config(trained):
    settings = config.load(config.MineConfig, ["demo.yaml", str(trained[0] / "encoder.yaml")])
    assert {"speech", "egemaps"} <= set(settings.encoders)


@pytest.mark.slow
def test_it_tells_how_it_goes(trained):
    folder, told = trained
    assert "39,334 of 39,334 parameters train" in told
    epochs = events(folder, "epoch")
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert all(event["samples_per_s"] > 0 and event["model_flops_per_s"] > 0 for event in epochs)
    assert [0 <= event["valid"] <= 1 for event in epochs] == [True] * 3
    (scored,) = events(folder, "scored")
    assert 0 <= scored["test"] <= 1
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_ends_the_same(trained):
    folder, _ = trained
    before = (folder / "weights/model.safetensors").read_bytes()
    done = train(folder, "optimization.epochs=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch" not in done.stdout.replace("best epoch", "")
    assert (folder / "weights/model.safetensors").read_bytes() == before
