"""The layer probe: which hidden layer of a model tells the emotions best. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import ProbeConfig
from mer_ray.pipelines import command

if __name__ == "__main__":
    about = "Score every hidden layer of a model on the labelled clips, fold by fold (P2 section 3.2.1)."
    sys.exit(command.main(job="probe", about=about, model=ProbeConfig, file="probe.yaml"))
