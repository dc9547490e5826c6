"""A speech model tuned to tell emotions, whole or in part (P1 section 2.2.2)."""

from __future__ import annotations

from mer_ray.tasks import base


class Config(base.FinetuneConfig):
    """Which speech model and what trains of it."""


class Task(base.Finetune):
    """See ``base.Finetune``."""
