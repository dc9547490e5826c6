"""The prediction job: label new clips by the learners of a finished run. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import PredictConfig
from mer_ray.pipelines import command

if __name__ == "__main__":
    about = "Label new clips by the learners of a finished run, which is neither changed nor fitted again."
    sys.exit(command.main(job="predict", about=about, model=PredictConfig, file="predict.yaml"))
