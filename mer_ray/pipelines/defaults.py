"""Which config file a job takes when none is given, told by what else the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def mine(overrides: Sequence[str]) -> str:
    """The demo's, unless the overrides point to something of the user's.

    >>> mine(["data.manifest=clips.csv"])
    'folder.yaml'
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    if "data.features" in given or Path(given.get("data.root", "/")).joinpath("features").is_dir():
        return "features.yaml"
    return "folder.yaml" if {"data.manifest", "data.root"} & given.keys() else "demo.yaml"


def tune(overrides: Sequence[str]) -> str:
    """A search on the demo, unless the overrides point to something of the user's."""
    chosen = mine(overrides)
    return "tune.yaml" if chosen == "demo.yaml" else chosen
