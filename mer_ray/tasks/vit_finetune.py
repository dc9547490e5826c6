"""A vision transformer tuned to tell emotions from single frames, or from a grid of them (P1 section 2.2.1).

The grid is the encoder's own option: ``encoder: {plugin: emotion_vit, options: {grid: 3, ...}}``.
"""

from __future__ import annotations

from mer_ray.tasks import base


class Config(base.FinetuneConfig):
    """Which vision transformer and what trains of it."""


class Task(base.Finetune):
    """See ``base.Finetune``."""
