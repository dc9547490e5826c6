"""Shipped tiny tasks on four made clips."""

import runpy
from pathlib import Path

import numpy as np
import yaml

from mer_ray import registry
from mer_ray.encoders.base import ClipInput

CONFIGS = Path(__file__).parents[1] / "jobs/configs/train"
SAMPLES = runpy.run_path(str(Path(__file__).parent / "media_samples.py"))
CLASSES = ("anger", "joy")
LABEL = np.array([0, 1, 0, 1])
TEXTS = ["I hate it", "how lovely!", "go away, all of you", "what a day"]


def clip(i, seconds=1.0, num_frames=3):
    face = SAMPLES["talking_face"]((64, 64), num_frames, mouth=0.2 + 0.4 * (i % 2))
    return ClipInput(
        audio=SAMPLES["voice"](seconds, i),
        faces=np.roll(face, 5 * i, axis=2) // (1 + i % 2),
        face_times=np.arange(num_frames, dtype=np.float32) / 5,
        text=TEXTS[i],
    )


CLIPS = [clip(0), clip(1, 0.8, 2), clip(2, 1.2, 5), clip(3)]


def shipped(name):
    """Its tiny config file."""
    return yaml.safe_load((CONFIGS / f"{name}.tiny.yaml").read_text())


def make(name, folder):
    config = registry.configure("tasks", name, shipped(name)["task"]["options"]).placed(folder)
    task_class = registry.find("tasks", name).Task
    return registry.build("tasks", name, config, class_names=CLASSES if task_class.needs_labels else ())


def batch(task, rows, seed=0):
    """Some of the four clips as the task's batch."""
    rngs = [np.random.default_rng([seed, row]) for row in rows]
    return task.collate([CLIPS[row] for row in rows], LABEL[rows], rngs)
