"""Why a clip of a finished run got its label. ``--help`` lists what it can be told."""

from __future__ import annotations

import sys

from mer_ray.config import WhyConfig
from mer_ray.pipelines import command, why

if __name__ == "__main__":
    sys.exit(
        command.main(
            job="why",
            about="Tell why a clip got its label: votes, rounds, modalities, labelled clips like it.",
            model=WhyConfig,
            pick_file=why.no_config,
            run=why.run,
            arguments=why.as_text(sys.argv[1:]),
        )
    )
