"""InternViT-6B tuned to tell emotions from frames: what trains of it decides (P1 section 2.2.1, table 2).

By default an MLP behind the frozen model, which was best; ``tuning: {how: partial, layers: [26, 48]}`` trains the
paper's blocks 25 to 47, ``tuning: {how: full}`` all of them.
"""

from __future__ import annotations

from pydantic import Field

from mer_ray.pretrained.tuning import Tuning
from mer_ray.tasks import base


class Config(base.FinetuneConfig):
    """Which InternViT and what trains of it."""

    tuning: Tuning = Field(Tuning(how="projector"), description="what trains: projector | partial | full | lora")


class Task(base.Finetune):
    """See ``base.Finetune``."""
