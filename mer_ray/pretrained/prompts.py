"""Learnable tokens in the first layers of CLIP's frozen towers (P3 section 3.2), and the file they are kept in.

As in the vision-language prompting that P3 builds on, each of the first layers is given N tokens of its own behind the
first position (the class token of an image, the start of a text). They take the place of what the layer before made of
its own; behind the last of those layers they pass through the others, and are dropped at the end. Nothing of the tower
is trained.

The file is safetensors with, for each such layer i (counted from 1), ``vision.<i>`` (N, D of the image tower) and
``text.<i>`` (N, D of the text tower), and in its metadata

- ``format``: ``mer_ray prompts 1``;
- ``model``: ``fingerprint`` of the tower they were trained in;
- ``classes``: JSON list of the class names, in the order of training;
- ``logit_scale``: the factor before the softmax over cosine similarities, a decimal number.

Shapes: B items, T positions, N prompts, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from mer_ray.errors import PluginError, ShapeError
from mer_ray.pretrained.weights import fetch_file

FORMAT = "mer_ray prompts 1"
_FIRST = 1  # position of the prompts: behind the class token or the start of the text


class PromptedEncoder(nn.Module):
    """The stack of layers of one of transformers' CLIP towers, prompts in the first of them.

    Takes the place of the tower's ``encoder``; give it to an optimiser as ``tokens.parameters()``.

    Args:
        encoder: transformers' ``CLIPEncoder``.
        tokens: for each of the first layers float (N, D), the same N for all.

    Raises:
        ShapeError: no tokens, more than there are layers, or of another width.
    """

    def __init__(self, encoder: Any, tokens: Sequence[Tensor]) -> None:
        super().__init__()
        depth, width = len(encoder.layers), encoder.config.hidden_size
        shapes = {tuple(token.shape) for token in tokens}
        if len(shapes) != 1 or len(tokens) > depth or next(iter(shapes))[1:] != (width,):
            raise ShapeError(
                f"prompts of shape {sorted(shapes)} for {len(tokens)} layers; the tower has {depth} of width {width}"
            )
        self.encoder = encoder
        self.tokens = nn.ParameterList(nn.Parameter(token.detach().clone()) for token in tokens)
        self.count = len(tokens[0])

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, **options: Any) -> BaseModelOutput:
        """What the encoder gives: ``last_hidden_state`` (B, T, D), the prompts' own positions taken out.

        Args:
            inputs_embeds: (B, T, D).
            attention_mask: as the tower makes it, None or (B or 1, 1, T, T) boolean or additive, causal.
            options: passed on to the layers.
        """
        mask = attention_mask if attention_mask is None else widen_mask(attention_mask, self.count)
        h_BTD = inputs_embeds
        for index, layer in enumerate(self.encoder.layers):
            if index < len(self.tokens):
                tokens = self.tokens[index].expand(len(h_BTD), -1, -1)
                behind = _FIRST + (self.count if index else 0)
                h_BTD = torch.cat([h_BTD[:, :_FIRST], tokens.to(h_BTD.dtype), h_BTD[:, behind:]], dim=1)
            h_BTD = layer(h_BTD, mask, **options)
        return BaseModelOutput(last_hidden_state=torch.cat([h_BTD[:, :_FIRST], h_BTD[:, _FIRST + self.count :]], dim=1))


def widen_mask(mask: Tensor, count: int) -> Tensor:
    """A causal mask with room for prompts behind the first position: seen by all that follows, not by the first.

    Args:
        mask: (B or 1, 1, T, T), boolean (True: seen) or float (added to the scores).
        count: N.

    Returns:
        (B or 1, 1, T + N, T + N), of the same type.

    Raises:
        ShapeError: a mask of another kind.
    """
    if mask.ndim != 4 or mask.shape[-1] != mask.shape[-2]:
        raise ShapeError(f"an attention mask of shape {tuple(mask.shape)}; use attn_implementation sdpa or eager")
    length = mask.shape[-1]
    kept = torch.arange(length + count, device=mask.device).sub(count).clamp(min=0)
    kept[:_FIRST] = 0
    wide = mask[:, :, kept][:, :, :, kept]
    ahead = torch.ones(_FIRST + count, _FIRST + count, dtype=torch.bool, device=mask.device).triu(1)
    unseen = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    wide[:, :, : _FIRST + count, : _FIRST + count].masked_fill_(ahead, unseen)
    return wide


def fresh(depth: int, count: int, width: int, seed: int = 0, std: float = 0.02) -> list[Tensor]:
    """Untrained prompts: for each of ``depth`` layers float32 (count, width), normal around 0."""
    generator = torch.Generator().manual_seed(seed)
    return [std * torch.randn(count, width, generator=generator) for _ in range(depth)]


def fingerprint(vision_tower: Any) -> str:
    """Which published model a tower is, wherever its files lie: a hash of its class token, in half precision."""
    token = vision_tower.embeddings.class_embedding.detach().cpu().half()
    return hashlib.sha256(token.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Prompts:
    """Trained prompts of both towers.

    Attributes:
        vision: for each of the first layers of the image tower, float (N, D).
        text: the same for the text tower; empty where only images are read.
        model: ``fingerprint`` of the tower they belong to.
        classes: names of the classes they were trained for.
        logit_scale: the factor before the softmax over cosine similarities.
    """

    vision: list[Tensor]
    text: list[Tensor]
    model: str
    classes: tuple[str, ...]
    logit_scale: float

    def save(self, file: Path) -> None:
        """Write the file that the module's docstring describes."""
        tensors = {
            f"{tower}.{number}": token.detach().contiguous().cpu()
            for tower, tokens in (("vision", self.vision), ("text", self.text))
            for number, token in enumerate(tokens, 1)
        }
        metadata = {
            "format": FORMAT,
            "model": self.model,
            "classes": json.dumps(self.classes),
            "logit_scale": repr(float(self.logit_scale)),
        }
        save_file(tensors, file, metadata=metadata)

    @classmethod
    def load(cls, file: str | Path) -> Prompts:
        """Read it.

        Raises:
            PluginError: no such file, or it is none of prompts.
        """
        try:
            with safe_open(fetch_file(str(file), "prompts"), "pt") as opened:
                metadata = opened.metadata() or {}
                names: list[str] = list(opened.keys())
                tensors = {name: opened.get_tensor(name) for name in names}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            towers = {tower: _in_order(tensors, tower) for tower in ("vision", "text")}
            return cls(
                model=metadata["model"],
                classes=tuple(json.loads(metadata["classes"])),
                logit_scale=float(metadata["logit_scale"]),
                **towers,
            )
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise PluginError(f"prompts {file}: cannot be read: {error}") from error


def _in_order(tensors: dict[str, Tensor], tower: str) -> list[Tensor]:
    """The prompts of a tower's layers 1, 2, ... without a gap."""
    numbers = sorted(int(name.removeprefix(f"{tower}.")) for name in tensors if name.startswith(f"{tower}."))
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"prompts of {tower} for layers {numbers}; they must be the first ones, from 1, without a gap")
    return [tensors[f"{tower}.{number}"] for number in numbers]


def add_prompts(model: Any, prompts: Prompts, file: str) -> None:
    """Put prompts into the towers that a model has (transformers' ``CLIPModel`` or a tower with projection), in place.

    Args:
        model: has ``vision_model``, and ``text_model`` where prompts for texts are to be put in, too.
        prompts: what is put in.
        file: where they come from, for messages.

    Raises:
        PluginError: they were trained in another model.
    """
    found = fingerprint(model.vision_model)
    if prompts.model != found:
        raise PluginError(f"prompts {file}: trained in the CLIP model {prompts.model}; these weights are {found}")
    for tower, tokens in ((model.vision_model, prompts.vision), (getattr(model, "text_model", None), prompts.text)):
        if tower is None:
            continue
        try:
            tower.encoder = PromptedEncoder(tower.encoder, tokens)
        except ShapeError as error:
            raise PluginError(f"prompts {file}: {error}") from error
