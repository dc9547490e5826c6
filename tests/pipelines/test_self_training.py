import json

import numpy as np
import pytest

from mer_ray.pipelines import self_training
from mer_ray.pretrained import plugin
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript

POOL = {f"{i}": np.full(4, i, np.float32) for i in range(1, 7)}
HELD_OUT = [("a b c d", np.full(4, 9, np.float32))]


class Told(base.Recogniser):
    """Says what it is told of each sound, which is known by its first sample."""

    version = 1

    def __init__(self, of_pool, of_held_out):
        super().__init__(plugin.Config())
        self.of_pool, self.of_held_out = of_pool, of_held_out
        self.asked = 0

    def _transcribe(self, waveforms):
        self.asked += len(waveforms)
        return [self.of_pool.get(int(one[0]), Transcript(self.of_held_out, 1.0, -0.1)) for one in waveforms]


FIRST = Told(
    {
        1: Transcript("one", 0.9, -0.2),
        2: Transcript("two", 0.9, -0.1),
        3: Transcript("", 1.0),
        4: Transcript("four", 0.2, -3.0),
        5: Transcript("five", 0.5, -0.2),
        6: Transcript("six", 0.3, -1.0),
    },
    "a b",
)
HEARD = dict(zip(POOL, FIRST.transcribe(list(POOL.values())), strict=True))


class Trainer:
    """Leaves the number of the training; the recogniser of each hears the held-out clip as it is told."""

    def __init__(self, heard):
        self.heard, self.given = heard, []

    def train(self, labels, folder):
        self.given.append(dict(labels))
        (folder / "number").write_text(str(len(self.given)))

    def opened(self, folder):
        return Told(FIRST.of_pool, self.heard[int((folder / "number").read_text()) - 1])

    def run(self, folder, **options):
        return self_training.run(FIRST, POOL, HELD_OUT, self.train, self.opened, folder, **options)


def test_the_surest_are_kept_and_what_said_nothing_never():
    assert list(self_training.surest(HEARD, 0.5)) == ["2", "1", "5"]
    assert list(self_training.surest(HEARD, 1.0)) == ["2", "1", "5", "6", "4"]
    assert self_training.surest(HEARD, 0.0) == {}


def test_it_goes_on_while_fewer_words_are_wrong(tmp_path):
    trainer = Trainer(["a b c", "a b c d", "a b c x", "never asked"])
    rounds = trainer.run(tmp_path)
    assert [one.word_error_rate for one in rounds] == [0.5, 0.25, 0.0, 0.25]
    assert self_training.best(rounds).number == 2
    assert trainer.given[0] == {"2": "two", "1": "one", "5": "five"}
    assert [one.kept for one in rounds] == [0, 3, 3, 3]
    assert rounds[1].lowest_score == -0.2
    assert self_training.labels(tmp_path / "01") == trainer.given[0]


def test_no_more_rounds_than_wanted(tmp_path):
    assert len(Trainer(["a b c", "a b c d"]).run(tmp_path, most_rounds=1)) == 2


def test_equal_is_not_better(tmp_path):
    rounds = Trainer(["a b", "a b c d"]).run(tmp_path)
    assert [one.number for one in rounds] == [0, 1]
    assert self_training.best(rounds).number == 0


@pytest.mark.parametrize("killed_in", [1, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path, killed_in):
    heard = ["a b c", "a b c d", "a b c x"]
    whole = Trainer(heard).run(tmp_path / "whole")

    class Killed(Trainer):
        def train(self, labels, folder):
            if len(self.given) + 1 == killed_in:
                (folder / "half").write_text("")
                raise KeyboardInterrupt
            super().train(labels, folder)

    with pytest.raises(KeyboardInterrupt):
        Killed(heard).run(tmp_path / "killed")
    again = Trainer(heard)
    again.given = [{}] * (killed_in - 1)
    before = FIRST.asked
    rounds = again.run(tmp_path / "killed")
    assert len(again.given) == 3
    assert [one.word_error_rate for one in rounds] == [one.word_error_rate for one in whole]
    if killed_in == 1:
        assert FIRST.asked == before, "neither the held-out clips nor the pool are transcribed once more"
    assert len(json.loads((tmp_path / "killed" / "rounds.json").read_text())) == 4
    assert not list((tmp_path / "killed").glob("*/weights/half"))
    assert again.run(tmp_path / "killed") == rounds
    assert len(again.given) == 3
