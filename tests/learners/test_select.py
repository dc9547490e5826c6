import numpy as np
from made_clips import clips, feature, named
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer_ray.config import LearnerConfig
from mer_ray.data.features import FeatureSet
from mer_ray.evaluation import metrics
from mer_ray.learners import folds, select


def test_a_feature_is_scored_out_of_fold_and_answers_with_the_commonest_class_where_it_is_absent():
    given, truth = clips(num_clips=120, absent=0.3)
    labels = np.where((truth != 2) & (np.arange(120) % 2 == 0), -1, truth)
    rows = np.flatnonzero(labels >= 0)
    cut = folds.make(labels[rows], [None] * len(rows), 3, 0)
    scored = select.scores(given, labels, cut)
    for one in given.features:
        here, known = one.present[rows], labels[rows]
        predicted = np.full(len(rows), 2)
        for fold in range(3):
            train, test = (cut.held_out != fold) & here, (cut.held_out == fold) & here
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            predicted[test] = model.fit(one.values[rows[train]], known[train]).predict(one.values[rows[test]])
        assert scored[one.name] == metrics.waf(known, predicted)
        assert scored[one.name] > metrics.waf(known, np.full(len(rows), 2)) + 0.2


def test_a_feature_that_few_clips_have_is_not_the_best():
    labels = np.arange(90) % 3
    rare, common = feature("rare", labels, 5, 0), feature("common", labels, 5, 1)
    rare.present[10:] = False
    rare.values[10:] = np.nan
    nowhere = feature("nowhere", labels, 5, 2, absent=1.1)
    given = FeatureSet(tuple(f"clip{i}" for i in range(90)), (rare, common, nowhere))
    scored = select.scores(given, labels, folds.make(labels, [None] * 90, 3, 0))
    assert scored["common"] > 0.8
    assert scored["rare"] < 0.4
    assert scored["nowhere"] <= 0.34


def test_the_best_of_each_modality_are_taken_in_their_order():
    given = named(("a1", "audio"), ("v", "video"), ("a2", "audio"), ("a3", "audio"), ("t", "text"))
    scored = {"a1": 0.5, "v": 0.1, "a2": 0.4, "a3": 0.5, "t": 0.9}
    assert select.best(given, scored, 1) == ["a1", "v", "t"]
    assert select.best(given, scored, 2) == ["a1", "v", "a3", "t"]
    assert select.best(given, scored, 9) == ["a1", "v", "a2", "a3", "t"]


def test_only_learners_that_ask_for_it_are_narrowed():
    given, labels = clips(num_clips=60, absent=0)
    noise = feature("noise", np.zeros(60, int), 6, 9, "audio")
    given = FeatureSet(given.clip_ids, (noise, *given.features))
    names = ["noise", "voice", "words"]
    learners = [LearnerConfig(name="all", features=names), LearnerConfig(name="few", features=names, top=1)]
    narrowed = select.narrow(learners, given, labels, folds.make(labels, [None] * 60, 3, 0))
    assert [learner.features for learner in narrowed] == [names, ["voice", "words"]]
    assert select.narrow(learners[:1], given, labels, folds.make(labels, [None] * 60, 3, 0)) == learners[:1]
