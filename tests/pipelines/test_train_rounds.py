"""Self-training as a job: what each round is given, and a small recogniser of espeak's words from clips to weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from rich.console import Console

from mer_ray import config, registry
from mer_ray.benchmarks import spoken
from mer_ray.config import MineConfig, TrainConfig
from mer_ray.data.manifest import Manifest
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, InputError, LearnerError
from mer_ray.pipelines import train_encoder, train_rounds
from mer_ray.recognisers.base import Transcript
from mer_ray.runtime.journal import Journal
from mer_ray.types import MER2024, Clip, Split

TINY = "train/noise_robust_asr.tiny.yaml"
LABELLED = [Clip(f"said{i}", Split.TRAIN, audio="a.wav", text="How lovely!") for i in range(5)]
POOL = [Clip(f"pool{i}", Split.TRAIN, audio="a.wav") for i in range(4)]
OTHERS = [Clip("test", Split.TEST, audio="a.wav", text="lovely"), Clip("test2", Split.TEST, audio="a.wav")]


def settings(folder, *more):
    return config.load(TrainConfig, TINY, [f"run.dir={folder}", "self_training.rounds=2", *more])


@pytest.fixture
def heard(monkeypatch):
    """In place of the tables: each round hears the pool ever more surely, and the held-out clips as it is told."""
    said = ["how", "how lovely", "how lovely day"]

    def hear(rounds, number, clips):
        return {
            clip.clip_id: Transcript(said[number], 0.5, -float(clip.clip_id[-1])) if clip.text else
            Transcript(f"word{number}", 0.5, -float(clip.clip_id[-1]))
            for clip in clips
        }  # fmt: skip

    monkeypatch.setattr(train_rounds._Rounds, "_heard", hear)


class Trainer:
    """Keeps what it is given, and leaves weights as they begin."""

    def __init__(self):
        self.given = []

    def __call__(self, settings, manifest, task, folder, held_out):
        self.given.append((settings, manifest.clips, task, folder, held_out))
        place = Path(folder.path("weights"))
        place.mkdir(parents=True)
        return task.save(task.build().state_dict().items(), place, str(place))


def run(tmp_path, clips, trainer, *more):
    told = settings(tmp_path, *more)
    run_dir = Store(str(tmp_path))
    manifest = Manifest(tuple(clips), MER2024, "")
    console = Console(quiet=True)
    home, entry = train_rounds.run(told, manifest, run_dir, run_dir / "tables", Journal(run_dir), console, trainer)
    return home.path(), entry


def test_each_round_is_trained_on_what_has_a_text_and_what_was_surest(tmp_path, heard):
    trainer = Trainer()
    home, entry = run(tmp_path, [*LABELLED, *POOL, *OTHERS], trainer, "self_training.learning_rate=0.001")
    assert len(trainer.given) == 3
    texts = [{clip.clip_id: clip.text for clip in clips} for _, clips, *_ in trainer.given]
    own = {clip.clip_id: clip.text for clip in LABELLED}
    assert texts == [own, own | {"pool0": "word0", "pool1": "word0"}, own | {"pool0": "word1", "pool1": "word1"}]
    assert len({held_out for *_, held_out in trainer.given}) == 1
    assert trainer.given[0][4] <= set(own)
    first, second, third = (one[0] for one in trainer.given)
    assert first == settings(tmp_path, "self_training.learning_rate=0.001")
    assert second == third
    assert second.optimization.learning_rate == 0.001
    assert second.task.options["weights"]["source"] == trainer.given[0][3].path("weights")
    assert home == trainer.given[1][3].path(), "how lovely, as it was said; the third put in a word"
    assert entry["options"]["weights"]["source"] == f"{home}/weights"


def test_what_is_trained_is_not_trained_again_unless_something_changes(tmp_path, heard):
    clips, again = [*LABELLED, *POOL], Trainer()
    before = run(tmp_path, clips, Trainer())
    assert run(tmp_path, clips, again) == before
    assert again.given == []
    run(tmp_path, clips, again, "seed=1")
    run(tmp_path, [*LABELLED, *POOL[1:]], again)
    assert len(again.given) == 6


@pytest.mark.parametrize("clips", [LABELLED, POOL])
def test_it_needs_a_text_to_begin_with_and_a_pool(tmp_path, clips):
    task = registry.find("tasks", "noise_robust_asr").Task
    with pytest.raises(InputError, match="without one as its pool"):
        train_rounds.check(settings(tmp_path), task, [*clips, *OTHERS])


@pytest.mark.parametrize(
    ("task", "more", "why"),
    [
        ("speech_finetune", (), "for tasks that train recognisers"),
        ("noise_robust_asr", ("transcribe.enabled=true",), "leave transcribe.enabled off"),
        ("noise_robust_asr", ("optimization.valid_share=0",), "set optimization.valid_share"),
    ],
)
def test_what_stands_in_the_way_is_said_first(tmp_path, task, more, why):
    with pytest.raises(ConfigError, match=why):
        train_rounds.check(settings(tmp_path, *more), registry.find("tasks", task).Task, [*LABELLED, *POOL])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_job_that_failed_in_a_round_goes_on_and_leaves_the_best(tmp_path, ray_cluster, monkeypatch):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["seven", "lazy", "dogs"], 3)) for _ in range(36)]
    rows = ["clip_id,audio,text,split"]
    for i, one in enumerate(spoken.say(texts, ["en-us"], rng)):
        soundfile.write(tmp_path / f"{i}.wav", one.samples, 16_000)
        rows.append(f"clip{i},{i}.wav,{one.text if i < 24 else ''},train")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    given = [
        f"run.dir={tmp_path}/run",
        f"data={{layout: manifest, manifest: {tmp_path}/clips.csv}}",
        "task.options={small: {width: 32, layers: 1, dropout: 0}, mixing: {speakers_share: 0, speeds: [1.0]}}",
        "optimization={epochs: 20, batch_size: 8, micro_batch: 8, learning_rate: 1.0e-2, patience: 20}",
        "self_training={rounds: 1, share: 0.5, learning_rate: 3.0e-3}",
    ]
    told = config.load(TrainConfig, TINY, given)
    run_round, begun = train_encoder._run_round, []

    def fail_once(*args, **more):
        begun.append(args[3])
        if len(begun) == 2:
            raise LearnerError("a node is lost")
        return run_round(*args, **more)

    monkeypatch.setattr(train_encoder, "_run_round", fail_once)
    with pytest.raises(LearnerError, match="a node is lost"):
        train_encoder.run(told)
    assert train_encoder.run(told) == 0
    first, second, third = (store.path() for store in begun)
    assert second == third != first
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    before, after = [event for event in events if event["event"] == "self_training_round"]
    assert (before["kept"], after["kept"]) == (0, 6)
    assert after["word_error_rate"] < 1
    transcribe = config.load(MineConfig, tmp_path / "run/encoder.yaml").transcribe
    best = third if after["word_error_rate"] < before["word_error_rate"] else first
    assert transcribe.recogniser.options["weights"]["source"] == f"{best}/weights"
    saved = yaml.safe_load((tmp_path / "run/encoder.yaml").read_text())["transcribe"]["recogniser"]
    registry.build("recognisers", saved["name"], saved["options"]).load()
