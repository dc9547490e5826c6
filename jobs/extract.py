"""The extraction job: tables of features for every clip of a manifest. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import ExtractConfig
from mer_ray.pipelines import command

if __name__ == "__main__":
    about = "Extract features of clips, labelled or not, into one table per encoder; --list shows the encoders."
    sys.exit(command.main(job="extract", about=about, model=ExtractConfig, file="extract.yaml", lists=True))
