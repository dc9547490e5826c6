"""The search job: settings of learning and mining by Optuna and ASHA. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import TuneConfig
from mer_ray.pipelines import command, defaults

if __name__ == "__main__":
    about = "Search the settings of learning and mining by out-of-fold score; writes the best as a config of mine.py."
    sys.exit(command.main(job="tune", about=about, model=TuneConfig, file=defaults.tune))
