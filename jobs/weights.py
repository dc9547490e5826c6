"""Published weights into the form that plug-ins load. ``--help`` says how it is called."""

from __future__ import annotations

import sys

from mer_ray.pipelines import weights

if __name__ == "__main__":
    sys.exit(weights.main())
