"""Experiments of made-up clips seen from several sides that are independent given the class."""

from dataclasses import replace

import numpy as np

from mer_ray.config import FitConfig, LearnerConfig, MineConfig, MiningConfig, PluginConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.learners.experiment import Experiment
from mer_ray.types import Split

CLASSES = ("anger", "joy", "worry")
VIEWS = {"voice": "audio", "face": "video", "words": "text"}
FIT = FitConfig(folds=3, epochs=25, hidden=32, batch_size=32, learning_rate=1e-2, standardise="fold")


def make(num_labelled=60, num_pool=150, num_test=60, seed=0, dim=8, distance=1.6, absent=0.1):
    """An experiment, and the class of every clip: labelled ones first, then the pool, then the test clips."""
    rng = np.random.default_rng(seed)
    num_clips = num_labelled + num_pool + num_test
    truth = rng.permutation(np.arange(num_clips) % len(CLASSES)).astype(np.int64)
    features = []
    for name, modality in VIEWS.items():
        centres = rng.normal(size=(len(CLASSES), dim))
        centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
        values = (centres[truth] + rng.normal(size=(num_clips, dim))).astype(np.float32)
        present = rng.random(num_clips) >= absent
        values[~present] = np.nan
        features.append(Feature(name, modality, values, present))
    sizes = (num_labelled, num_pool, num_test)
    splits = tuple(
        s for s, size in zip((Split.TRAIN, Split.UNLABELED, Split.TEST), sizes, strict=True) for _ in range(size)
    )
    experiment = Experiment(
        features=FeatureSet(tuple(f"clip{i:03d}" for i in range(num_clips)), tuple(features)),
        labels=np.where(np.arange(num_clips) < num_labelled, truth, -1),
        splits=splits,
        speakers=(None,) * num_clips,
        class_names=CLASSES,
        pool=np.array([split is Split.UNLABELED for split in splits]),
        features_digest=f"made-{seed}",
        seed=seed,
    )
    return experiment, truth


def learners():
    """Four small learners of different views."""
    subsets = {
        "all": list(VIEWS),
        "no_voice": ["face", "words"],
        "no_face": ["voice", "words"],
        "no_words": ["voice", "face"],
    }
    return [LearnerConfig(name=n, features=f, fusion=PluginConfig(name="concat")) for n, f in subsets.items()]


def settings(rounds=2, **options):
    given = {"strategy": "vote", "guard": False, "rounds": rounds, **options}
    return MineConfig(fit=FIT, learners=learners(), mining=MiningConfig(**given))


__all__ = ["CLASSES", "FIT", "VIEWS", "learners", "make", "replace", "settings"]
