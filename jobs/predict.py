"""The prediction job: label new clips by the learners of a finished run. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import PredictConfig
from mer_ray.pipelines import command, predict

if __name__ == "__main__":
    sys.exit(
        command.main(
            job="predict",
            about="Label new clips by the learners of a finished run, which is neither changed nor fitted again.",
            model=PredictConfig,
            pick_file=predict.default_config,
            run=predict.run,
        )
    )
