"""Features of made-up clips whose classes can be told from them."""

import numpy as np

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.learners.fit import TrainingRows

CLASSES = ("anger", "joy", "worry")
NONE = np.empty(0, dtype=np.int64)


def feature(name, labels, dim, seed, modality="audio", absent=0.0):
    """Noise around a centre per class; NaN where absent."""
    rng = np.random.default_rng([seed, dim])
    centres = rng.normal(size=(max(labels) + 1, dim)) * 2
    values = (centres[labels] + rng.normal(size=(len(labels), dim))).astype(np.float32)
    present = rng.random(len(labels)) >= absent
    values[~present] = np.nan
    return Feature(name, modality, values, present)


def clips(num_clips=90, seed=0, absent=0.2):
    """Three features of widths 6, 5 and 4, and the clips' classes, each a third of them."""
    labels = np.arange(num_clips) % len(CLASSES)
    made = [
        feature("voice", labels, 6, seed, "audio", absent),
        feature("face", labels, 5, seed, "video", absent),
        feature("words", labels, 4, seed, "text", absent),
    ]
    return FeatureSet(tuple(f"clip{i}" for i in range(num_clips)), tuple(made)), labels


def training(rows, labels, pseudo=NONE, pseudo_labels=NONE, weight=1.0, num_classes=3):
    """Hard pseudo-labels, all of one weight."""
    target = np.eye(num_classes, dtype=np.float32)[pseudo_labels]
    weights = np.full(len(pseudo), weight, np.float32)
    return TrainingRows(np.asarray(rows), np.asarray(labels)[rows], pseudo, target, weights)


def named(*pairs, num_clips=4):
    """Features of the given (name, modality), one number wide."""
    values, present = np.zeros((num_clips, 1), np.float32), np.ones(num_clips, bool)
    made = tuple(Feature(name, modality, values, present) for name, modality in pairs)
    return FeatureSet(tuple(f"clip{i}" for i in range(num_clips)), made)
