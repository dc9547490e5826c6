"""The training job: what is refused before anything is started, and a tiny task from clips to weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mer_ray import config
from mer_ray.config import EncoderConfig, TrainConfig
from mer_ray.pipelines import command
from mer_ray.stages.encode import EncodeStage

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny task, in a process of its own, with its curves."""
    folder = tmp_path_factory.mktemp("trained")
    command_line = [sys.executable, str(config.REPOSITORY / "jobs/train_encoder.py"), "--config", TINY]
    overrides = [f"run.dir={folder}", "optimization.epochs=3", "log.loggers=[tensorboard]"]
    done = subprocess.run([*command_line, *overrides], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


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
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "training_epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert all(event["samples_per_s"] > 0 and event["model_flops_per_s"] > 0 for event in epochs)
    assert [0 <= event["valid"] <= 1 for event in epochs] == [True] * 3
    (scored,) = [event for event in events if event["event"] == "training_scored"]
    assert 0 <= scored["test"] <= 1
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_ends_the_same(trained):
    folder, _ = trained
    before = (folder / "weights/model.safetensors").read_bytes()
    command_line = [sys.executable, str(config.REPOSITORY / "jobs/train_encoder.py"), "--config", TINY]
    overrides = [f"run.dir={folder}", "optimization.epochs=3"]
    done = subprocess.run([*command_line, *overrides], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch" not in done.stdout.replace("best epoch", "")
    assert (folder / "weights/model.safetensors").read_bytes() == before
