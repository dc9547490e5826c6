"""Which clips a worker is given when: whatever the workers, and wherever a run goes on."""

import numpy as np
import pytest

from mer_ray.train.order import Once, Order, Share, Timeline

TRAIN, VALID = np.arange(100, 111), np.arange(50, 55)


def timeline(rank=0, world=1, micro=2, first=0, epochs=3):
    share = Share(rank, world, micro)
    return Timeline(TRAIN, Order(len(TRAIN), 4, seed=7), share, Once(VALID, share, 7), first, epochs)


def draws(line):
    return [line.draw(number) for number in range(len(line))]


def rows(draw):
    return np.concatenate(draw.rows).tolist()


def test_an_epoch_takes_every_clip_and_is_shuffled_anew():
    order = Order(11, 4, seed=7)
    assert order.steps_per_epoch == 3
    epochs = [np.concatenate([order.rows(step) for step in range(3 * e, 3 * e + 3)]) for e in range(2)]
    for taken in epochs:
        assert set(taken) == set(range(11))
        assert len(taken) == 12, "the last step is filled up"
        assert taken[11] == taken[0]
    assert epochs[0].tolist() != epochs[1].tolist()
    assert Order(11, 4, seed=8).rows(0).tolist() != order.rows(0).tolist()


def test_steps_and_scored_clips_follow_each_other():
    told = draws(timeline())
    assert len(told) == 3 * (3 + 3)
    for epoch in range(3):
        part = told[6 * epoch : 6 * epoch + 6]
        assert set().union(*(rows(draw) for draw in part[:3])) == set(TRAIN)
        assert [rows(draw) for draw in part[3:]] == [[50, 51], [52, 53], [54, 50]]
        assert all(len(draw.rows) == 2 for draw in part[:3]), "two micro-batches"


@pytest.mark.parametrize(("world", "micro"), [(2, 2), (2, 1), (4, 1)])
def test_workers_together_take_what_one_takes(world, micro):
    alone = [draw for draw in draws(timeline()) if len(draw.rows) > 1]
    shared = [
        [draw for draw in draws(timeline(rank, world, micro)) if set(rows(draw)) <= set(TRAIN)] for rank in range(world)
    ]
    for step, whole in enumerate(alone):
        parts = [shared[rank][step] for rank in range(world)]
        assert sorted(row for part in parts for row in rows(part)) == sorted(rows(whole))
        drawn = [seed for part in parts for seeds in part.seeds for seed in seeds]
        assert sorted(drawn) == sorted(seed for seeds in whole.seeds for seed in seeds), "and draw the same of each"
    once = [Once(VALID, Share(rank, world, micro), 7) for rank in range(world)]
    assert len({len(one) for one in once}) == 1
    assert set().union(*(rows(one.draw(n)) for one in once for n in range(len(one)))) == set(VALID)


@pytest.mark.parametrize("first", [0, 1, 3, 5, 8])
def test_a_run_that_goes_on_is_given_the_rest(first):
    whole, rest = draws(timeline()), draws(timeline(first=first))
    behind = first + 3 * (first // 3)
    assert [rows(draw) for draw in rest] == [rows(draw) for draw in whole[behind:]]
    assert [draw.seeds for draw in rest] == [draw.seeds for draw in whole[behind:]]


def test_without_clips_to_score_there_are_steps_alone():
    share = Share(0, 1, 2)
    line = Timeline(TRAIN, Order(11, 4, 7), share, Once(VALID[:0], share, 7), 0, 2)
    assert len(line) == 6
    assert all(set(rows(draw)) <= set(TRAIN) for draw in draws(line))
