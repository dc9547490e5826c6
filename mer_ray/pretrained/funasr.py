"""What ``config.yaml`` beside a pickle of FunASR tells of its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mer_ray.errors import PluginError
from mer_ray.pretrained import fbank, pieces
from mer_ray.pretrained.sanm import Sizes

CONFIG = "config.yaml"
_FRONTEND = {"fs": 16_000, "window": "hamming", "frame_length": 25, "frame_shift": 10}
_FRONTEND |= {"lfr_m": fbank.STACKED, "lfr_n": fbank.STEP}
_ENCODER = {"input_layer": "pe", "selfattention_layer_type": "sanm", "normalize_before": True, "concat_after": False}


def read(folder: Path, models: Sequence[str]) -> dict[str, Any] | None:
    """The configuration in a folder of a published pickle; None where there is none.

    Args:
        folder: where the pickle lies.
        models: names of FunASR's classes that are taken.

    Raises:
        PluginError: it cannot be read, or is of another model.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PluginError(f"{file} cannot be read: {error}") from error
    name = config.get("model") if isinstance(config, dict) else None
    if name not in models:
        raise PluginError(f"{file}: it is of the model {name!r}; {', '.join(models)} are taken")
    made: dict[str, Any] = config
    return made


def of_sound(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments that recognisers share: the encoder's sizes, the numbers of a frame and of the tokens.

    Raises:
        PluginError: the folder has no tokens, or see ``input_size``.
    """
    counts = {"input_size": input_size(config), "vocab_size": len(pieces.load(folder, str(folder)))}
    return counts | encoder_sizes(config)


def encoder_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the encoder, as ``sanm.Sizes`` takes them.

    Raises:
        PluginError: it is another encoder than ``sanm.Encoder``.
    """
    hold(config, "encoder_conf", _ENCODER)
    told = part(config, "encoder_conf")
    return {field.name: told[field.name] for field in fields(Sizes) if told.get(field.name) is not None}


def input_size(config: Mapping[str, Any]) -> int:
    """Numbers of a stacked frame.

    Raises:
        PluginError: the sound is read in another way than ``fbank`` reads it.
    """
    hold(config, "frontend_conf", _FRONTEND)
    return int(part(config, "frontend_conf").get("n_mels", fbank.BANDS)) * fbank.STACKED


def part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A table in it; empty where there is none."""
    told = config.get(name)
    return dict(told) if isinstance(told, Mapping) else {}


def hold(config: Mapping[str, Any], name: str, wanted: Mapping[str, Any]) -> None:
    """Hold a table in it to what this package's networks do alone; what it does not tell is so.

    Raises:
        PluginError: it tells something else.
    """
    told = part(config, name)
    if others := {key: told[key] for key, value in wanted.items() if told.get(key, value) != value}:
        raise PluginError(f"{CONFIG}: {name} tells {others}, and {dict(wanted)} is taken")
