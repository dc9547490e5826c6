import numpy as np
import pytest
import torch
from made_clips import clips

from mer_ray import registry
from mer_ray.config import FitConfig
from mer_ray.learners.batches import Batches, Part, Table
from mer_ray.learners.model import FoldModel, tensors

CPU = torch.device("cpu")


def table(num_folds=2):
    features, _ = clips()
    config = registry.configure("fusion", "concat", {"dims": (6, 5, 4), "num_classes": 3, "hidden": 4})
    models = [FoldModel("concat", config) for _ in range(num_folds)]
    for fold, model in enumerate(models):
        model.learn_scales(features, np.arange(10 * fold, 60))
    return features, models, Table(features, models, CPU)


def part(first, end):
    clip = np.arange(first, end)
    target = np.eye(3, dtype=np.float32)[clip % 3]
    return Part(clip, target, (clip + 1).astype(np.float32), clip.astype(np.float32))


def test_rows_are_standardised_by_the_fold_that_asks():
    features, models, given = table()
    rows = torch.tensor([[3, 80, 3], [5, 3, 89]])
    taken, present = given.take(rows, torch.tensor([1, 0]))
    for g, fold in enumerate((1, 0)):
        values, here = tensors(features.take(rows[g].numpy()))
        assert torch.equal(present[g], here)
        for m, x in enumerate(models[fold].prepare(values)):
            torch.testing.assert_close(taken[m][g], x, equal_nan=True)


@pytest.mark.parametrize("batch_size", [7, 16, 100])
def test_an_epoch_has_every_clip_once_in_steps_that_all_folds_take(batch_size):
    _, _, given = table()
    parts = [part(0, 50), part(20, 61)]
    batches = Batches(parts, given, FitConfig(batch_size=batch_size), [5, 6])
    for _ in range(2):
        made = list(batches.epoch(torch.tensor([0, 1])))
        assert len(made) == batches.steps == -(-50 // batch_size)
        for fold, own in enumerate(parts):
            drawn = [batch.valence_GB[fold][batch.real_GB[fold]] for batch in made]
            assert sorted(torch.cat(drawn).tolist()) == own.clip.tolist()
            assert max(map(len, drawn)) - min(map(len, drawn)) <= 1
        for batch in made:
            clip = batch.valence_GB.long()
            assert torch.equal(batch.weight_GB, clip + 1.0)
            assert torch.equal(batch.target_GBC.argmax(dim=2), clip % 3)
            torch.testing.assert_close(batch.features[1], given.take(clip, torch.arange(2))[0][1], equal_nan=True)


def test_the_order_is_a_folds_own_and_changes_with_the_epoch_and_the_seed():
    _, _, given = table()

    def order(batches, folds):
        return [torch.cat([b.valence_GB for b in batches.epoch(torch.tensor(folds))], dim=1)[-1].tolist()]

    def make(seed=6):
        return Batches([part(0, 48), part(0, 48)], given, FitConfig(batch_size=16), [5, seed])

    both = make()
    first = order(both, [0, 1])
    assert first == order(make(), [1])
    assert first != order(both, [0, 1])
    assert first != order(make(seed=7), [1])


def test_an_epoch_that_is_too_long_takes_a_part_of_the_clips_that_is_drawn_anew():
    _, _, given = table()
    parts = [part(0, 50), part(20, 28)]

    def drawn(most_steps):
        batches = Batches(parts, given, FitConfig(batch_size=7, epochs=10, most_steps=most_steps), [5, 6])
        epochs = [list(batches.epoch(torch.tensor([0, 1]))) for _ in range(10)]
        return [[torch.cat([b.valence_GB[g][b.real_GB[g]] for b in one]).tolist() for g in (0, 1)] for one in epochs]

    bounded = drawn(39)
    assert bounded == drawn(39)
    assert all((len(first), len(set(first))) == (21, 21) for first, _ in bounded), "3 steps of 7"
    assert all(sorted(second) == list(range(20, 28)) for _, second in bounded)
    assert set().union(*(first for first, _ in bounded)) == set(range(50))
    assert drawn(80) == drawn(10_000) != bounded, "8 steps are a whole epoch"
    assert len(drawn(1)[0][0]) == 7


def test_a_fit_on_the_missions_labelled_clips_is_not_cut_short():
    fit = FitConfig()
    trained_on = 5030 * (1 - 1 / fit.folds) * (1 - fit.inner_share)
    assert -(-trained_on // fit.batch_size) * fit.epochs <= fit.most_steps
