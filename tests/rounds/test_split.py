from dataclasses import replace

import made_votes
import numpy as np
import pytest

from mer_ray import registry
from mer_ray.mining.base import Context
from mer_ray.rounds.split import Adoptions, adopt, divide, first_adopted

COLUMNS = ("fold", "clip", "label", "agreement", "confidence", "weight", "learner", "round")
POOL = np.arange(40) >= 10


@pytest.fixture
def strategy():
    return registry.build("mining", "vote", {"min_agree": 2, "min_share": 0.5})


@pytest.fixture
def votes_KFNC():
    return np.stack([made_votes.random(4, 40, 3, seed=fold) for fold in range(3)], axis=1)


def rows_of(adoptions):
    return list(zip(*(getattr(adoptions, column).tolist() for column in COLUMNS), strict=True))


def run(strategy, votes_KFNC, pool=POOL, earlier=None, round_number=2, seed=7):
    earlier = Adoptions.none(3) if earlier is None else earlier
    contexts = [Context.even(3, round_number)] * 3
    return adopt(strategy, votes_KFNC, np.broadcast_to(pool, (3, 40)), earlier, contexts, seed=seed)


def some(fold, clip, label, learner=None):
    zeros = np.zeros(len(fold), dtype=np.int64)
    learner = zeros if learner is None else np.array(learner)
    return Adoptions(
        fold=np.array(fold),
        clip=np.array(clip),
        label=np.array(label),
        agreement=zeros + 3,
        confidence=zeros + 0.5,
        target=np.eye(6, dtype=np.float32)[label],
        weight=np.ones(len(fold), dtype=np.float32),
        learner=learner,
        round=zeros,
    )


def test_each_fold_adopts_what_the_strategy_takes_from_its_own_votes(strategy, votes_KFNC):
    adopted = run(strategy, votes_KFNC)
    pool_rows = np.flatnonzero(POOL)
    for fold in range(3):
        mine = adopted.where(adopted.fold == fold)
        chosen = strategy.select(votes_KFNC[:, fold, pool_rows], Context.even(3))
        assert len(chosen.clip) > 3
        assert mine.clip.tolist() == pool_rows[chosen.clip].tolist()
        for column in ("label", "agreement", "confidence", "target", "weight"):
            np.testing.assert_array_equal(getattr(mine, column), getattr(chosen, column))
        assert set(mine.round.tolist()) == {2}
    assert np.isin(adopted.clip, pool_rows).all()
    assert rows_of(adopted) == sorted(rows_of(adopted))


def test_the_votes_of_one_fold_do_not_touch_another(strategy, votes_KFNC):
    before = run(strategy, votes_KFNC)
    changed = votes_KFNC.copy()
    changed[:, 1] = changed[:, 1, :, ::-1]
    after = run(strategy, changed)
    for fold in (0, 2):
        assert rows_of(after.where(after.fold == fold)) == rows_of(before.where(before.fold == fold))
    assert rows_of(after) != rows_of(before)


def test_a_clip_adopted_earlier_has_left_the_pool_of_its_fold_only(strategy, votes_KFNC):
    first = run(strategy, votes_KFNC)
    clip = next(clip for clip in first.clip if (first.clip == clip).sum() == 3)
    second = run(strategy, votes_KFNC, earlier=some([1], [clip], [0]))
    assert second.fold[second.clip == clip].tolist() == [0, 2]
    again = run(strategy, votes_KFNC, earlier=first)
    assert len(again) == 0


def test_each_fold_adopts_from_its_own_pool_alone(strategy, votes_KFNC):
    pools = np.stack([POOL, POOL & (np.arange(40) % 2 == 0), np.zeros(40, dtype=bool)])
    adopted = run(strategy, votes_KFNC, pool=pools)
    assert (adopted.clip[adopted.fold == 1] % 2 == 0).all()
    assert (adopted.clip[adopted.fold == 0] % 2 == 1).any()
    assert set(adopted.fold.tolist()) == {0, 1}


def test_no_pool_gives_no_adoption(strategy, votes_KFNC):
    adopted = run(strategy, votes_KFNC, pool=np.zeros(40, dtype=bool))
    assert rows_of(adopted) == []
    assert adopted.clip.dtype == np.int64


def test_the_clips_of_a_fold_are_divided_evenly_among_the_learners(strategy, votes_KFNC):
    adopted = run(strategy, votes_KFNC)
    for fold in range(3):
        sizes = [len(adopted.of(fold, learner)) for learner in range(4)]
        assert sum(sizes) == (adopted.fold == fold).sum()
        assert max(sizes) - min(sizes) <= 1


def test_the_same_seed_adopts_the_same_and_seed_and_round_change_the_split_alone(strategy, votes_KFNC):
    first = run(strategy, votes_KFNC)
    assert rows_of(run(strategy, votes_KFNC)) == rows_of(first)
    for other in (run(strategy, votes_KFNC, seed=8), run(strategy, votes_KFNC, round_number=3)):
        assert other.clip.tolist() == first.clip.tolist()
        assert other.label.tolist() == first.label.tolist()
        assert other.learner.tolist() != first.learner.tolist()


LABELS = np.random.default_rng(5).choice(3, 41, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("how", ["even", "stratified"])
@pytest.mark.parametrize("num_learners", [1, 2, 4])
@pytest.mark.parametrize("num_clips", [0, 1, 3, 4, 41])
def test_every_clip_goes_to_one_learner_evenly_and_at_random(num_clips, num_learners, how):
    labels = LABELS[:num_clips]
    place, given, times = divide(how, labels, num_learners, 3)
    assert given.dtype == np.int64
    assert place.tolist() == list(range(num_clips))
    assert times.tolist() == [1] * num_clips
    for rows in [labels >= 0, *(labels == c for c in range(3))] if how == "stratified" else [labels >= 0]:
        sizes = np.bincount(given[rows], minlength=num_learners)
        assert sizes.max() - sizes.min() <= 1
    assert given.tolist() == divide(how, labels, num_learners, 3)[1].tolist()
    if num_clips == 41 and num_learners > 1:
        assert given.tolist() != (np.arange(41) % num_learners).tolist()
        assert given.tolist() != divide(how, labels, num_learners, [3, 1])[1].tolist()


def test_a_bootstrap_draws_as_many_clips_as_there_are_with_replacement_for_each_learner():
    place, learner, times = divide("bootstrap", LABELS, 4, 0)
    assert list(zip(place, learner, strict=True)) == sorted(set(zip(place, learner, strict=True)))
    assert [times[learner == k].sum() for k in range(4)] == [41] * 4
    assert all(0.45 < (learner == k).sum() / 41 < 0.8 for k in range(4)), "about 63% of the clips are drawn"
    assert len({tuple(place[learner == k]) for k in range(4)}) == 4
    assert divide("bootstrap", LABELS[:0], 4, 0)[0].tolist() == []


def test_a_clip_drawn_twice_counts_twice_and_all_means_all(strategy, votes_KFNC):
    once = run(strategy, votes_KFNC)
    options = strategy.config.model_dump()
    drawn, all_ = (
        run(registry.build("mining", "vote", {**options, "split": split}), votes_KFNC) for split in ("bootstrap", "all")
    )
    assert drawn.weight.max() >= 2
    for fold in range(3):
        clips = once.clip[once.fold == fold]
        assert [drawn.of(fold, k).weight.sum() for k in range(4)] == [len(clips)] * 4
        assert [all_.of(fold, k).clip.tolist() for k in range(4)] == [clips.tolist()] * 4
    assert all_.num_clips_by_fold(3) == once.num_clips_by_fold(3)


def test_rows_are_joined_and_picked_in_order():
    joined = some([0, 1], [5, 6], [1, 2], [0, 1]).join(some([0], [7], [0], [1]))
    assert len(joined) == 3
    assert joined.clip.tolist() == [5, 6, 7]
    assert joined.of(0, 1).clip.tolist() == [7]
    assert joined.of(1, 0).clip.tolist() == []
    assert rows_of(Adoptions.none(6).join(joined)) == rows_of(joined)
    assert joined.with_learners(np.array([2, 5])).learner.tolist() == [2, 5, 5]
    assert joined.learner.tolist() == [0, 1, 1]


def test_the_shuffled_control_permutes_labels_within_each_fold_alone():
    fold = [0] * 30 + [1] * 30
    truth = some(fold, list(range(60)), [0, 1, 2] * 10 + [3, 4, 5] * 10)
    control = truth.shuffled(seed=4)
    for column in set(COLUMNS) - {"label"}:
        np.testing.assert_array_equal(getattr(control, column), getattr(truth, column))
    for one in (0, 1):
        mine = control.fold == one
        assert sorted(control.label[mine]) == sorted(truth.label[mine])
        assert control.label[mine].tolist() != truth.label[mine].tolist()
    assert (control.label[:30] + 3).tolist() != control.label[30:].tolist()
    assert control.label.tolist() == truth.shuffled(seed=4).label.tolist()
    assert control.label.tolist() != truth.shuffled(seed=5).label.tolist()
    assert truth.label[:3].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(control.target.argmax(axis=1), control.label)


def test_in_the_control_a_clip_has_one_label_in_all_learners():
    shared = some([0] * 40, np.repeat(np.arange(20), 2).tolist(), np.repeat(np.arange(20) % 6, 2).tolist(), [0, 1] * 20)
    control = shared.shuffled(seed=1)
    assert control.label[::2].tolist() == control.label[1::2].tolist() != shared.label[::2].tolist()


def test_the_round_that_adopted_a_clip_is_the_first_of_any_fold():
    first = some([0, 0, 1], [3, 5, 5], [0, 0, 0])
    anew = replace(some([0, 1, 1], [3, 3, 7], [0, 0, 0]), round=np.array([1, 1, 1]))
    assert first_adopted([anew, first, Adoptions.none(6)], 9).tolist() == [-1, -1, -1, 0, -1, 0, -1, 1, -1]
    assert first_adopted([first.join(anew)], 9).tolist()[7] == 1, "rounds that keep what they had tell the same"
    assert first_adopted([], 2).tolist() == [-1, -1]
