"""Deep prompts in both towers of a frozen CLIP, on emotional videos (P3 section 3.2).

Shapes: B clips, F frames of a clip, D width of the common space, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture, tuning
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.images import Images
from mer_ray.pretrained.prompts import Prompts, fingerprint
from mer_ray.pretrained.tuning import Tuning
from mer_ray.pretrained.weights import Weights
from mer_ray.tasks import base
from mer_ray.tasks.base import Batch, Outcome

FILE = "prompts.safetensors"
_PLACE = "{}"


class Config(base.Config):
    """Which CLIP, how many prompts, and what stands for a class."""

    weights: Weights | None = Field(None, description="a whole CLIP of transformers, with its tokenizer")
    tiny: bool = Field(False, description="a tiny random CLIP in place of weights, to try things out")
    tuning: Tuning = Field(
        Tuning(how="prompts", layers=(1, 12)), description="tokens in the first layers of both towers"
    )
    template: str = Field("a video of a person feeling {}.", description="the text of a class, {} being its name")
    frames: int = Field(8, ge=1, description="face frames of a clip, drawn anew each epoch")

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        if template.count(_PLACE) != 1:
            raise ValueError("the place of the class must be written once, as {}")
        return template

    def placed(self, folder: Path | None) -> Self:
        """See the base class."""
        if not self.tiny:
            return self
        place = base.kept(folder, "clip", lambda beside: [part.save_pretrained(beside) for part in _tiny()])
        return self.model_copy(update={"weights": Weights(source=str(place)), "tiny": False})


class Task(base.Task):
    """Cosine similarity of a video's mean frame to the classes' texts."""

    needs_labels = True
    config: Config

    def __init__(self, config: Config, class_names: Sequence[str]) -> None:
        super().__init__(config, class_names)
        if config.tuning.how != "prompts":
            raise ConfigError(f"tuning.how={config.tuning.how}: this task trains prompts; vit_finetune trains the rest")
        if config.weights is None or config.weights.is_random:
            raise ConfigError("weights.source: prompts belong to trained weights; name a folder, or set tiny=true")
        self.weights = config.weights

    @cached_property
    def folder(self) -> Path:
        """The weights' files."""
        return weights_.fetch(self.weights)

    @cached_property
    def images(self) -> Images:
        """What makes CLIP's input of a frame."""
        return Images.load(CLIPImageProcessor, self.folder)

    @property
    def reads(self) -> tuple[str, ...]:
        """Face crops."""
        return ("faces",)

    @property
    def identity(self) -> str:
        """See the base class; its files are there then."""
        _ = self.images
        return weights_.identity(self.weights)

    @property
    def shareable(self) -> bool:
        """See the base class: CLIP's temperature is a number of no dimension, which DeepSpeed cannot share out."""
        return False

    def build(self) -> nn.Module:
        """See the base class."""
        return Prompted(self.config, self.weights, self.folder, self.class_names)

    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See the base class: ``pixels`` uint8 (B * F, 3, S, S) and ``label``."""
        count = self.config.frames
        parts = [part for clip, rng in zip(clips, rngs, strict=True) for part in base.frames(clip, count, rng)]
        drawn = [part.faces[0] for part in parts if part.faces is not None]
        pixels = self.images.normalised(self.images.resized(drawn))
        return {"pixels": pixels, "label": torch.from_numpy(label)}

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: the prompts alone."""
        tokens: dict[str, dict[int, Tensor]] = {"vision": {}, "text": {}}
        scale, token = 1.0, None
        for name, tensor in weights:
            tower = "vision" if ".vision_model." in name else "text"
            if ".tokens." in name:
                tokens[tower][int(name.rpartition(".")[2])] = tensor
            elif name.endswith("logit_scale"):
                scale = float(tensor.exp())
            elif name.endswith("vision_model.embeddings.class_embedding"):
                token = tensor
        assert token is not None
        in_order = {tower: [found[i] for i in sorted(found)] for tower, found in tokens.items()}
        model = fingerprint(_Tower(token))
        Prompts(in_order["vision"], in_order["text"], model, self.class_names, scale).save(folder / FILE)
        source = self.weights.model_dump(mode="json", exclude_defaults=True)
        return {"plugin": "emovclip", "options": {"weights": source, "prompts": f"{place}/{FILE}"}}


class _Tower:
    """A tower as ``fingerprint`` looks at it."""

    def __init__(self, class_token: Tensor) -> None:
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = class_token


class Prompted(nn.Module):
    """A frozen CLIP with trained prompts."""

    def __init__(self, config: Config, weights: Weights, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__()
        self.clip = architecture.load(CLIPModel, folder, weights).float()
        tuning.apply(self.clip, config.tuning)
        texts = [config.template.format(name) for name in class_names]
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True)(texts, padding=True, return_tensors="pt")
        self.register_buffer("text_ids", made["input_ids"], persistent=False)
        self.register_buffer("text_mask", made["attention_mask"], persistent=False)
        self.frames = config.frames

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        seen = self.clip.visual_projection(self.clip.vision_model(batch["pixels"].to(self.dtype)).pooler_output)
        told = self.clip.text_model(input_ids=self.text_ids, attention_mask=self.text_mask).pooler_output
        videos_BD = functional.normalize(seen.reshape(-1, self.frames, seen.shape[1]).mean(dim=1).float(), dim=1)
        texts_CD = functional.normalize(self.clip.text_projection(told).float(), dim=1)
        logits_BC = self.clip.logit_scale.float().exp() * videos_BD @ texts_CD.T
        return Outcome(functional.cross_entropy(logits_BC, batch["label"]), {}, logits_BC)

    @property
    def dtype(self) -> torch.dtype:
        """Of the towers."""
        dtype: torch.dtype = self.clip.visual_projection.weight.dtype
        return dtype


def _tiny() -> tuple[Any, Any, Any]:
    """A CLIP in everything but its size: two layers in each tower, a tokenizer of bytes, images of 32 pixels."""
    tokenizer = architecture.byte_tokenizer(cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    size["projection_dim"] = 24
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.cls_token_id}
    tokens |= {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config=size | tokens,
        vision_config=size | {"image_size": 32, "patch_size": 8, "initializer_factor": 4.0},
        projection_dim=size["projection_dim"],
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return architecture.randomly(lambda: CLIPModel(config)), tokenizer, processor
