"""A causal language model tuned to tell emotions from transcripts, whole or by low-rank updates (P1 section 2.2.3)."""

from __future__ import annotations

from mer_ray.tasks import base


class Config(base.FinetuneConfig):
    """Which language model and what trains of it."""


class Task(base.Finetune):
    """See ``base.Finetune``."""
