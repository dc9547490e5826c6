"""Why a clip of a finished run got its label. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import WhyConfig
from mer_ray.pipelines import command

if __name__ == "__main__":
    about = "Tell why a clip got its label: votes, rounds, modalities, labelled clips like it."
    sys.exit(command.main(job="why", about=about, model=WhyConfig, texts=["clip"]))
