import numpy as np
from rich.console import Console

from mer_ray.benchmarks import new_speakers, real_sets
from mer_ray.config import FitConfig


def write(folder):
    """Three emotions of seven speakers whose voices lie further apart than the emotions; two are the test's."""
    rng = np.random.default_rng(0)
    speaker, emotion = np.repeat(np.arange(7), 30), np.arange(210) % 3
    voice = 4 * rng.normal(size=(7, 6))[speaker] + 2 * rng.normal(size=(3, 6))[emotion] + rng.normal(size=(210, 6))
    np.savez(
        folder / "nemo_audiofeat.npz",
        audio=voice,
        emotion=np.array(["anger", "fear", "sadness"])[emotion],
        speaker=np.array([f"S{number}" for number in speaker]),
        split=np.where(speaker < 5, "train", "test"),
    )


def test_a_new_speaker_is_told_better_the_more_of_his_clips_come_at_once(tmp_path):
    write(tmp_path)
    fit = FitConfig(folds=2, epochs=6, hidden=16, learning_rate=1e-2)
    settings = new_speakers.Config(data=str(tmp_path), seeds=[0], fraction=0.6, at_once=[1, 5], fit=fit)
    *_, figures = new_speakers.run(settings, Console(quiet=True))
    found = {column: one["mean"] for column, one in figures["sets"]["nemo"].items()}
    assert list(found) == ["fold", "whole", "batch", "batch_of_1", "batch_of_5"]
    assert found["batch"] > found["whole"] + 0.1
    assert found["batch"] >= found["batch_of_5"] > found["batch_of_1"]


def test_every_clip_is_asked_about_once_beside_clips_of_its_speaker(tmp_path):
    write(tmp_path)
    one = real_sets.read(tmp_path, "nemo")
    calls = new_speakers.calls_of(one, 7, seed=0)
    assert sorted(np.concatenate(calls)) == list(range(210))
    assert [len(rows) for rows in calls] == [7, 7, 7, 7, 2] * 7
    assert all(len({one.speakers[row] for row in rows}) == 1 for rows in calls)
