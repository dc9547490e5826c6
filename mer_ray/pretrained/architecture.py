"""Published architectures, how to build one with random weights, and how to load one from its files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.weights import RANDOM, Weights


@dataclass(frozen=True)
class Architecture:
    """A published model.

    Attributes:
        config: makes the library's own configuration of it; no network.
        num_parameters: as published, to the digits given there; held to 2% by a test on the meta device.
        source: where that figure stands.
        hub: the name under which weights are published.
        licence: of those weights.
    """

    config: Callable[[], Any]
    num_parameters: float
    source: str
    hub: str
    licence: str


def pick(architectures: Mapping[str, Architecture], weights: Weights) -> Architecture:
    """The architecture that ``random:NAME`` names.

    Raises:
        ConfigError: there is no such name.
    """
    name = weights.source.removeprefix(RANDOM)
    if name not in architectures:
        raise ConfigError(f"weights.source={weights.source!r}: there are {', '.join(sorted(architectures))}")
    return architectures[name]


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Parameters of the module that ``build`` makes, without making their memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def randomly(build: Callable[[], nn.Module], device: str = "cpu", seed: int = 0) -> nn.Module:
    """The module that ``build`` makes, on ``device``, with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[0] if device == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        return build()


def load(
    model_class: Any, folder: Path, weights: Weights, allowed_missing: tuple[str, ...] = (), **options: Any
) -> Any:
    """A transformers model from a folder: safetensors only, no network, every tensor there.

    Args:
        model_class: has ``from_pretrained``.
        folder: of ``weights.fetch``.
        weights: says whether the model's own code may run.
        allowed_missing: beginnings of the names of tensors that inference never reads.
        options: passed on.

    Raises:
        PluginError: the files are of another model or incomplete; the library would fill in random numbers.
    """
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports tensors that are not read, such as a head's; missing ones are told below
    try:
        model, info = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=weights.trust_remote_code,
            dtype="auto",
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise PluginError(f"weights {weights.source}: cannot be loaded as {model_class.__name__}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = [name for name in info["missing_keys"] if not name.startswith(allowed_missing or ("\0",))]
    wrong = [*missing, *(str(item) for item in info["mismatched_keys"])]
    if wrong:
        raise PluginError(
            f"weights {weights.source}: {len(wrong)} tensors of {type(model).__name__} are missing or of another "
            f"shape, e.g. {sorted(wrong)[0]}; these are weights of another model"
        )
    return model


def keep_files(*parts: Any) -> str:
    """Save models and processors (``save_pretrained``) in a folder that lives as long as this process; its path."""
    folder = tempfile.mkdtemp(prefix="mer_ray-tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.disable_progress_bar()
    for part in parts:
        part.save_pretrained(folder)
    return folder


def byte_tokenizer(**special_tokens: str) -> Any:
    """A tokenizer of single bytes for random models: every text has tokens, ids below 256 + the special ones.

    Args:
        special_tokens: such as ``cls_token="<s>"``; a cls and a sep token are put around every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(special_tokens.values()), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if {"cls_token", "sep_token"} <= special_tokens.keys():
        cls, sep = special_tokens["cls_token"], special_tokens["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}", special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)
