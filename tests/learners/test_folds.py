import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mer_ray.errors import InputError
from mer_ray.learners import folds

labelled = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, "s", "t", "u", "v"])), min_size=2, max_size=24)


def make(labels, speakers=None, num_folds=5, seed=0):
    labels = np.array(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return folds.make(labels, [None] * len(labels) if speakers is None else speakers, num_folds, seed)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labelled, st.integers(2, 6), st.integers(0, 3))
@example([(0, "s"), (1, "t"), (2, "u")], 5, 0)
@example([(0, None), (1, None)], 5, 0)
@example([(0, "s"), (0, "s"), (1, "t"), (1, "t")], 2, 0)
def test_what_always_holds(rows, num_folds, seed):
    labels, speakers = np.array([label for label, _ in rows]), [speaker for _, speaker in rows]
    made = make(labels, speakers, num_folds, seed)
    assert 2 <= made.num_folds <= num_folds
    assert made.held_out.dtype == np.int64
    assert sorted(set(made.held_out.tolist())) == list(range(made.num_folds))
    assert len(made.held_out) == len(rows)
    counts = Counter(labels.tolist())
    for fold in range(made.num_folds):
        left = set(labels[made.held_out != fold].tolist())
        assert left >= {label for label, count in counts.items() if count >= 2}
    if made.grouped:
        places = {(speaker, fold) for speaker, fold in zip(speakers, made.held_out, strict=True) if speaker}
        assert len(places) == len({speaker for speaker, _ in places})
    if made.num_folds < num_folds or (any(speakers) and not made.grouped):
        assert made.warnings
    again = make(labels, speakers, num_folds, seed)
    np.testing.assert_array_equal(again.held_out, made.held_out)
    assert again == folds.Folds(again.held_out, made.num_folds, made.grouped, made.warnings)


def test_every_clip_is_held_out_once_and_classes_are_spread_evenly():
    labels = [0] * 50 + [1] * 25 + [2] * 10
    made = make(labels)
    assert (made.num_folds, made.grouped, made.warnings) == (5, False, ())
    table = np.zeros((5, 3), dtype=int)
    np.add.at(table, (made.held_out, labels), 1)
    assert table.tolist() == [[10, 5, 2]] * 5


def test_speakers_stand_on_one_side_and_classes_are_spread_still():
    speakers = [f"s{i // 6}" for i in range(120)]
    labels = np.arange(120) % 3
    made = make(labels, speakers)
    assert (made.num_folds, made.grouped, made.warnings) == (5, True, ())
    assert len(set(zip(speakers, made.held_out.tolist(), strict=True))) == 20
    assert np.bincount(made.held_out).tolist() == [24] * 5


def test_clips_of_unknown_speakers_are_groups_of_their_own():
    speakers = ["s"] * 10 + [None] * 40
    made = make(np.arange(50) % 2, speakers)
    assert made.grouped
    assert made.num_folds == 5
    assert len(set(made.held_out[:10].tolist())) == 1
    assert len(set(made.held_out[10:].tolist())) == 5


def test_an_unknown_speaker_is_not_taken_for_a_named_one():
    speakers = ["0", None, "1", None, "None", None] * 4
    made = make(np.arange(24) % 2, speakers, num_folds=4)
    assert made.grouped
    assert len(set(made.held_out[1::2].tolist())) > 1


def test_the_number_of_folds_shrinks_to_the_commonest_class():
    made = make([0, 0, 0, 1, 1])
    assert made.num_folds == 3
    assert made.warnings == ("3 folds, not 5: the commonest class has 3 clips",)


def test_the_number_of_folds_shrinks_to_the_speakers():
    made = make([0, 1] * 9, ["a", "b", "c"] * 6)
    assert (made.num_folds, made.grouped) == (3, True)
    assert "3 folds, not 5" in made.warnings[0]


def test_grouping_is_given_up_with_a_warning_where_it_would_leave_a_class_out():
    """All of class 1 is said by one speaker: where he is held out, nothing of it is left."""
    labels, speakers = [0] * 12 + [1] * 6, [f"s{i}" for i in range(12)] + ["t"] * 6
    made = make(labels, speakers)
    assert not made.grouped
    assert made.num_folds == 5
    assert "not grouped by speaker" in made.warnings[-1]


def test_one_speaker_alone_cannot_be_grouped():
    made = make([0, 1] * 6, ["s"] * 12)
    assert not made.grouped
    assert "not grouped by speaker" in made.warnings[-1]


def test_a_class_of_one_clip_is_held_out_once_and_does_not_hinder_grouping():
    made = make([0] * 20 + [1] * 20 + [2], [f"s{i % 10}" for i in range(40)] + ["s0"])
    assert (made.num_folds, made.grouped) == (5, True)
    assert made.held_out[40] == made.held_out[0]


@pytest.mark.parametrize("speakers", [None, [f"s{i % 15}" for i in range(60)]])
def test_the_seed_decides(speakers):
    labels = np.arange(60) % 3
    np.testing.assert_array_equal(make(labels, speakers).held_out, make(labels, speakers).held_out)
    assert make(labels, speakers).held_out.tolist() != make(labels, speakers, seed=1).held_out.tolist()


@pytest.mark.parametrize("labels", [[], [0]])
def test_fewer_than_two_clips_are_refused(labels):
    with pytest.raises(InputError, match="label more clips"):
        make(np.array(labels, dtype=np.int64))


def pools(speakers, pool, labelled=12, labels=None):
    rows = np.arange(labelled)
    made = make(np.arange(labelled) % 2 if labels is None else labels, speakers[:labelled], num_folds=3)
    return made, *folds.share_pool(made, rows, speakers, np.array(pool))


def test_the_pool_of_a_fold_holds_no_clip_of_a_speaker_who_is_held_out_in_it():
    speakers = [f"s{i % 6}" for i in range(12)] + [f"s{i % 8}" for i in range(28)]
    made, pool_FN, warnings = pools(speakers, np.arange(40) >= 12)
    assert made.grouped
    assert warnings == ()
    named = np.array(speakers)
    for fold in range(made.num_folds):
        held_out = set(named[:12][made.held_out == fold])
        assert set(named[pool_FN[fold]]) == set(named) - held_out
        assert not pool_FN[fold, :12].any()


def test_clips_of_unknown_speakers_stay_in_every_pool_with_a_warning():
    speakers = [f"s{i % 6}" for i in range(12)] + [None] * 4 + ["s0", "s1"]
    _, pool_FN, (warning,) = pools(speakers, np.arange(18) >= 12)
    assert pool_FN[:, 12:16].all()
    assert (~pool_FN[:, 16]).sum() == 1
    assert "the speakers of 4 clips are not known" in warning
    assert "may be too kind" in warning


def test_folds_that_are_not_grouped_are_warned_of_when_there_is_a_pool():
    one = ["s"] * 20
    made, pool_FN, (warning,) = pools(one, np.arange(20) >= 12)
    assert not made.grouped
    assert pool_FN[:, 12:].all()
    assert "folds are not grouped by speaker: a fold's pool may" in warning
    assert pools(one, np.zeros(20, dtype=bool))[2] == ()
    assert "the speakers of 20 clips are not known" in pools([None] * 20, np.arange(20) >= 12)[2][0]


def test_a_pool_that_is_emptied_is_said():
    speakers = [f"s{i % 6}" for i in range(12)] + ["s2"] * 5
    made, pool_FN, (warning,) = pools(speakers, np.arange(17) >= 12)
    fold = made.held_out[2]
    assert pool_FN.any(axis=1).tolist() == [f != fold for f in range(made.num_folds)]
    assert f"fold {fold} has no pool" in warning
