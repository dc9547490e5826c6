from dataclasses import replace

import numpy as np
import pytest
from made_clips import CLASSES, clips

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import ShapeError
from mer_ray.learners.experiment import Experiment
from mer_ray.types import Split


def experiment(num_clips=9):
    features, classes = clips(num_clips)
    labels = np.where(np.arange(num_clips) % 3 == 2, -1, classes)
    return Experiment(
        features=features,
        labels=labels,
        splits=tuple(Split.UNLABELED if label < 0 else Split.TRAIN for label in labels),
        speakers=(None,) * num_clips,
        class_names=CLASSES,
        pool=labels < 0,
        features_digest="d",
        seed=0,
    )


def test_speakers_of_labelled_clips_are_numbered_where_all_are_known():
    made = replace(experiment(), speakers=("bo", "ann", "x", "ann", "cy", None, "bo", "ann", "x"))
    assert made.labelled_speakers.tolist() == [1, 0, 0, 2, 1, 0]
    assert replace(made, speakers=(None, *made.speakers[1:])).labelled_speakers is None


def test_labelled_rows_and_the_share_of_each_class():
    made = experiment()
    assert made.labelled.tolist() == [0, 1, 3, 4, 6, 7]
    assert made.prior.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full(8, -1)}, "lengths differ.*'labels': 8"),
        ({"speakers": (None,)}, "lengths differ.*'speakers': 1"),
        ({"splits": ()}, "lengths differ.*'splits': 0"),
        ({"class_names": ("only",)}, "label 1 with 1 classes"),
        ({"pool": np.ones(9, bool)}, "in the pool too"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ShapeError, match=message):
        replace(experiment(), **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_present_value_that_is_not_finite_is_refused_and_an_absent_one_is_not(value):
    made = experiment()
    values = np.zeros((9, 2), np.float32)
    values[4, 1] = value
    present = np.ones(9, dtype=bool)

    def given(present):
        return FeatureSet(made.features.clip_ids, (Feature("mel", "audio", values, present),))

    with pytest.raises(ShapeError, match="feature mel"):
        replace(made, features=given(present))
    present[4] = False
    assert replace(made, features=given(present)).features.features[0].name == "mel"
