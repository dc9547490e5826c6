"""The training job: tune an encoder on clips. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import TrainConfig
from mer_ray.pipelines import command

if __name__ == "__main__":
    about = "Train an encoder on clips, on one CPU or many GPUs; leaves weights that the encoder plug-in loads."
    sys.exit(command.main(job="train_encoder", about=about, model=TrainConfig, file="train/speech_finetune.yaml"))
