import json

import pytest

from mer_ray.data.storage import Store
from mer_ray.pipelines import self_training
from mer_ray.recognisers.base import Transcript

HEARD = {
    "1": Transcript("one", 0.9, -0.2),
    "2": Transcript("two", 0.9, -0.1),
    "3": Transcript("", 1.0),
    "4": Transcript("four", 0.2, -3.0),
    "5": Transcript("five", 0.5, -0.2),
    "6": Transcript("six", 0.3, -1.0),
}


class Rounds:
    """Each round has the errors that it is told; of what it is asked it keeps count."""

    def __init__(self, *errors):
        self.wrong, self.asked, self.given, self.scored = errors, [], {}, []

    def transcribe(self, number):
        self.asked.append(number)
        return HEARD

    def train(self, number, labels):
        self.given[number] = dict(labels)

    def errors(self, number):
        self.scored.append(number)
        return self.wrong[number]


def run(rounds, folder, **options):
    return self_training.run(rounds, Store(str(folder)), **options)


def test_the_surest_are_kept_and_what_said_nothing_never():
    assert list(self_training.surest(HEARD, 0.5)) == ["2", "1", "5"]
    assert list(self_training.surest(HEARD, 1.0)) == ["2", "1", "5", "6", "4"]
    assert self_training.surest(HEARD, 0.0) == {}


def test_it_goes_on_while_fewer_words_are_wrong(tmp_path):
    rounds = Rounds(0.5, 0.25, 0.0, 0.25, 0.0)
    found = run(rounds, tmp_path)
    assert [one.word_error_rate for one in found] == [0.5, 0.25, 0.0, 0.25]
    assert self_training.best(found).number == 2
    assert rounds.given[1] == {"2": "two", "1": "one", "5": "five"}
    assert [one.kept for one in found] == [0, 3, 3, 3]
    assert (found[0].lowest_score, found[1].lowest_score) == (None, -0.2)
    assert rounds.asked == [0, 1, 2], "each is labelled by the one before"
    assert self_training.labels(Store(str(tmp_path)), 1) == rounds.given[1]


def test_no_more_rounds_than_wanted(tmp_path):
    assert len(run(Rounds(0.5, 0.25, 0.0), tmp_path, most_rounds=1)) == 2


def test_equal_is_not_better(tmp_path):
    found = run(Rounds(0.5, 0.5, 0.0), tmp_path)
    assert [one.number for one in found] == [0, 1]
    assert self_training.best(found).number == 0


@pytest.mark.parametrize("killed_in", [1, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path, killed_in):
    errors = (0.25, 0.1, 0.0, 0.25)
    whole = run(Rounds(*errors), tmp_path / "whole")

    class Killed(Rounds):
        def train(self, number, labels):
            if number == killed_in:
                raise KeyboardInterrupt
            super().train(number, labels)

    with pytest.raises(KeyboardInterrupt):
        run(Killed(*errors), tmp_path / "killed")
    again = Rounds(*errors)
    assert run(again, tmp_path / "killed") == whole
    assert list(again.given) == list(range(killed_in, 4))
    assert again.asked == list(range(killed_in, 3)), "the pool was labelled for the round that was killed"
    assert again.scored == list(range(killed_in, 4))
    assert len(json.loads((tmp_path / "killed" / "rounds.json").read_text())) == 4
    done = Rounds(*errors)
    assert run(done, tmp_path / "killed") == whole
    assert (done.asked, done.given, done.scored) == ([], {}, [])
