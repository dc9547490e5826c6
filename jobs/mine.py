"""The main job: label a pool of clips by rounds of voting learners. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import MineConfig
from mer_ray.pipelines import command, defaults

if __name__ == "__main__":
    about = "Label a pool of clips by rounds of voting learners; with no --config, the embedded demo."
    sys.exit(command.main(job="mine", about=about, model=MineConfig, file=defaults.mine))
