import numpy as np
import pytest
from sklearn.random_projection import GaussianRandomProjection

from mer_ray.classifiers import base, lda_em
from mer_ray.data.features import Feature, FeatureSet

CLASSES = 3


def made(num_clips=400, dims=(7, 5), share=1.0, seed=0):
    """Clips of Gaussian classes, each with at least one feature, values of absent ones 0; and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=num_clips)
    present = rng.random((num_clips, len(dims))) < share
    present[np.arange(num_clips), np.arange(num_clips) % len(dims)] = True
    features = []
    for m, dim in enumerate(dims):
        mixed = rng.standard_normal((num_clips, dim)) @ rng.standard_normal((dim, dim))
        values = mixed + rng.standard_normal((CLASSES, dim))[labels] * 1.5 + 20 * m
        values[~present[:, m]] = 0
        features.append(Feature(f"f{m}", f"f{m}", values.astype(np.float32), present[:, m]))
    return FeatureSet(tuple(map(str, range(num_clips))), tuple(features)), labels


def cut(labels, num_folds=3, num_labelled=60, pool=True):
    """What each fold learns from: labelled clips but its own third, the pool but a few clips of its own."""
    rows, rest = np.arange(num_labelled), np.arange(num_labelled, len(labels) - 50)
    folds = []
    for fold in range(num_folds):
        clip = rows[rows % num_folds != fold]
        own = rest[rest % 10 != fold] if pool else rest[:0]
        target = np.eye(CLASSES, dtype=np.float32)[labels[clip]]
        folds.append(base.Rows(clip, target, np.ones(len(clip), np.float32), own))
    return folds


def fit(features, folds, **options):
    dims = tuple(feature.values.shape[1] for feature in features.features)
    config = lda_em.Config(dims=dims, num_classes=CLASSES, num_folds=len(folds), **options)
    model = lda_em.Classifier(config)
    model.fit(features, folds, seed=0)
    return model


def plain(features, fold, shrink=0.4, steps=4, pool_weight=0.2):
    """One fold by a pass per step in float64, pair of columns by pair of columns; the probabilities of all clips."""
    rows = np.concatenate([fold.clip, fold.pool])
    x = np.concatenate([f.values.astype(np.float64) for f in features.features], axis=1)
    here = np.concatenate([np.repeat(f.present[:, None], f.values.shape[1], 1) for f in features.features], axis=1)
    x = np.where(here, x, np.nan)
    x = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    num_labelled, posterior = len(fold.clip), None
    for step in range(steps + 1):
        r = np.zeros((len(rows), CLASSES))
        r[:num_labelled] = fold.target * fold.weight[:, None]
        if step and len(fold.pool):
            r[num_labelled:] = pool_weight * posterior[fold.pool]
        posterior = plain_step(x, here, x[rows], here[rows], r, shrink, fold.target.sum(axis=0) > 0)
        if not len(fold.pool):
            break
    return posterior


def plain_step(everything, everywhere, x, here, r, shrink, seen):
    x, p, width = np.nan_to_num(x), here.astype(float), x.shape[1]
    mean = np.stack([(r[:, [k]] * x * p).sum(0) / np.maximum((r[:, [k]] * p).sum(0), 1e-12) for k in range(CLASSES)])
    cov = np.zeros((width, width))
    for i in range(width):
        for j in range(width):
            both = r * (p[:, i] * p[:, j])[:, None]
            n = np.maximum(both.sum(0), 1e-12)
            cov[i, j] = (
                both.sum(1) @ (x[:, i] * x[:, j]) - ((both.T @ x[:, i]) * (both.T @ x[:, j]) / n).sum()
            ) / n.sum()
    sd = np.sqrt(np.maximum(np.diag(cov), 1e-6))
    corr = (1 - shrink) * cov / np.outer(sd, sd) + shrink * np.eye(width)
    n = r.sum(0)
    prior = np.log((n + 1) / (n + 1).sum())
    prior[~seen] = -np.inf
    found = np.empty((len(everything), CLASSES))
    for row, (z, own) in enumerate(zip(everything, everywhere, strict=True)):
        w = np.linalg.solve(corr[np.ix_(own, own)], (mean / sd)[:, own].T) / sd[own, None]
        score = z[own] @ w + prior - 0.5 * (mean[:, own].T * w).sum(0)
        found[row] = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    return found


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("dims", [(7, 5), (4, 3, 3, 2, 2)], ids=["solved at once", "solved when met"])
@pytest.mark.parametrize("tile", [3, 1024])
def test_it_equals_a_pass_per_step_fold_by_fold(share, steps, dims, tile, monkeypatch):
    monkeypatch.setattr(lda_em, "_TILE", tile)
    features, labels = made(share=share, dims=dims)
    folds = cut(labels)
    found, _ = fit(features, folds, steps=steps).predict(features)
    for probabilities, fold in zip(found, folds, strict=True):
        np.testing.assert_allclose(probabilities, plain(features, fold, steps=steps), atol=1e-4)


def test_soft_targets_and_weights_of_a_fold_alone_count():
    features, labels = made(share=0.8)
    folds = cut(labels)
    rng = np.random.default_rng(1)
    soft = rng.dirichlet(np.ones(CLASSES), len(folds[0].clip)).astype(np.float32)
    folds[0] = base.Rows(folds[0].clip, soft, rng.random(len(soft)).astype(np.float32), folds[0].pool[::2])
    found, _ = fit(features, folds).predict(features)
    for probabilities, fold in zip(found, folds, strict=True):
        np.testing.assert_allclose(probabilities, plain(features, fold), atol=1e-4)


def counted(monkeypatch):
    """How many rows each D x D product reads, from now on."""
    rows, add_products = [], lda_em.add_products

    def count(matrix, x_BD, *others):
        rows.append(len(x_BD))
        add_products(matrix, x_BD, *others)

    monkeypatch.setattr(lda_em, "add_products", count)
    return rows


def test_more_steps_multiply_no_more_rows(monkeypatch):
    features, labels = made()
    rows = counted(monkeypatch)
    sums = []
    for steps in (1, 8):
        rows.clear()
        fit(features, cut(labels), steps=steps)
        sums.append(sum(rows))
    assert sums[0] == sums[1] > 0
    num_labelled, num_pool = 60, len(labels) - 110
    assert sums[0] == 2 * num_labelled + num_pool + 3 * num_pool // 10, "each clip once, and once where it is lacking"


def test_learners_of_some_features_share_one_matrix(monkeypatch):
    features, labels = made(dims=(7, 5, 4), share=0.7)
    folds, places = cut(labels), [(0, 1, 2), (0, 2), (1,)]
    folds = [base.Rows(f.clip[:40], f.target[:40], f.weight[:40], f.pool) for f in folds]
    read = [features.only([f"f{m}" for m in own]) for own in places]
    made_of = [tuple(f.values.shape[1] for f in one.features) for one in read]
    models = [lda_em.Classifier(lda_em.Config(dims=dims, num_classes=CLASSES, num_folds=3)) for dims in made_of]
    rows = counted(monkeypatch)
    fit(features, folds)
    once = sum(rows)
    rows.clear()
    lda_em.Classifier.fit_together(models, places, features, folds, [0, 0, 0])
    assert sum(rows) == once > 0, "what is read for all features is read for every learner of some of them"
    for model, one in zip(models, read, strict=True):
        seen = one.present.any(axis=1)
        own = [base.Rows(f.clip[(k := seen[f.clip])], f.target[k], f.weight[k], f.pool[seen[f.pool]]) for f in folds]
        alone, _ = fit(one, own).predict(one)
        np.testing.assert_allclose(model.predict(one)[0], alone, atol=1e-4)


def test_a_class_that_a_fold_lacks_keeps_its_column_at_0():
    features, labels = made()
    folds = cut(labels)
    kept = labels[folds[1].clip] != 2
    folds[1] = base.Rows(folds[1].clip[kept], folds[1].target[kept], folds[1].weight[kept], folds[1].pool)
    found, _ = fit(features, folds).predict(features)
    assert (found[1, :, 2] == 0).all()
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)
    assert (found[0, :, 2] > 0).any()
    np.testing.assert_allclose(found[1], plain(features, folds[1]), atol=1e-4)


def test_fewer_clips_than_columns_and_no_shrinking_are_mended():
    features, labels = made(num_clips=400, dims=(80, 60))
    found, _ = fit(features, cut(labels, num_labelled=30, pool=False), shrink=0.0).predict(features)
    assert np.isfinite(found).all()
    assert (found.argmax(axis=2) == labels).mean() > 0.5


def test_features_that_are_too_wide_are_projected():
    features, labels = made(dims=(300, 40))
    model = fit(features, cut(labels), max_width=100)
    assert [one.width for one in model.inputs] == [88, 11]
    theirs = GaussianRandomProjection(88, random_state=0).fit(np.zeros((1, 300)))
    np.testing.assert_allclose(model.inputs[0].projection.T, theirs.components_, atol=1e-6)
    assert (model.predict(features)[0].argmax(axis=2) == labels).mean() > 0.4
    again = fit(features, cut(labels), max_width=100)
    np.testing.assert_array_equal(model.predict(features)[0], again.predict(features)[0])


def test_the_pool_shows_where_the_classes_lie():
    right = {0: [], 4: []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = np.arange(600) % CLASSES
        values = rng.standard_normal((600, 8)) + 1.5 * rng.standard_normal((CLASSES, 8))[labels]
        features = FeatureSet(tuple(map(str, range(600))), (Feature("f", "x", values, np.ones(600, dtype=bool)),))
        target = np.eye(CLASSES, dtype=np.float32)[labels[:9]]
        fold = base.Rows(np.arange(9), target, np.ones(9, np.float32), np.arange(9, 400))
        for steps, found in right.items():
            said = fit(features, [fold], steps=steps).predict(features)[0][0, 400:]
            found.append((said.argmax(axis=1) == labels[400:]).mean())
    assert np.mean(right[4]) > np.mean(right[0]) + 0.02
