"""Benchmarks: ``jobs/bench.py NAME [--json FILE] [key=value ...]``; each one's docstring names its figures."""

from __future__ import annotations

import sys

from mer_ray.benchmarks import harness

if __name__ == "__main__":
    sys.exit(harness.main())
