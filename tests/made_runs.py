"""Finished runs, as small as they can be, for tests of what is made of one."""

import in_process
import numpy as np
import pandas as pd

CLASSES = ("anger", "happiness", "worry")
QUICK = ("fit.epochs=8", "fit.folds=2", "fit.standardise=fold", "mining={strategy: vote, rounds: 1}")
DEMO = (
    "data.demo={num_clips: 30, labelled: 0.4}",
    "encoders={logmel: {plugin: logmel}, hog: {plugin: hog, pooling: mean_std}, ngrams: {plugin: ngrams}}",
    "faces.fps=2",
)


def of_clips(folder):
    """30 clips of the demo, one of them quarantined: denoised voices, faces, transcripts; a round after round 0."""
    told = ("evaluation.ablations=false", "mining.guard=false", f"run.dir={folder}/run")
    assert in_process.run("mine", *DEMO, *QUICK, *told) == 0
    return folder / "run"


def of_vectors(folder, *more):
    """A run on ready features, see ``vectors``.

    ``more`` are overrides of the job.
    """
    assert in_process.run("mine", *vectors(folder), *more, f"run.dir={folder}/run") == 0
    return folder


def vectors(folder):
    """Ready features of 60 clips: some without a vector of one kind, one of them with none at all.

    Returns what the job is told to be run on them.
    """
    rng = np.random.default_rng(0)
    emotion = np.arange(60) % 3
    ids = np.array([f"c{i:02d}" for i in range(60)])
    split = np.array(["train"] * 24 + ["unlabeled"] * 20 + ["test"] * 16)
    label = ["" if s == "unlabeled" else CLASSES[c] for c, s in zip(emotion, split, strict=True)]
    pd.DataFrame({"clip_id": ids, "label": label, "split": split}).to_csv(folder / "clips.csv", index=False)
    (folder / "features").mkdir()
    for name, kept in {"audio": ids != "c50", "face_net": ~np.isin(ids, ["c45", "c50"])}.items():
        vector = (np.eye(3)[emotion] * 3 + rng.normal(size=(60, 3))).astype(np.float32)
        np.savez(folder / f"features/{name}.npz", clip_id=ids[kept], vector=vector[kept])
    brought = [f"data.manifest={folder}/clips.csv", f"data.features={folder}/features"]
    return [*brought, "data.modalities.face_net=video", *QUICK, "fit.folds=3"]
