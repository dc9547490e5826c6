"""InternViT-6B on face frames (P1 section 2.2.1), by the vision class of transformers.

Weights may be

- the folder of a whole ``InternVL...-hf`` model. ``InternVLVisionModel.from_pretrained`` alone finds none of its
  tensors there, because they stand under ``vision_tower.``; that prefix is mapped away here, and the language model is
  not read. But the whole folder is fetched and hashed: for many nodes, save the vision model once by itself;
- the folder that ``InternVLVisionModel.save_pretrained`` leaves, with the ``preprocessor_config.json`` beside it;
- ``InternViT-6B-...`` as OpenGVLab publishes it (type ``intern_vit_6b``; P1's is V1-5): its tensors are renamed and its
  joint query-key-value matrices split on loading. No code of the repository is run.

Shapes: N images, P patches, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, GotOcr2ImageProcessor, InternVLVisionConfig, InternVLVisionModel

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.images import Images, frame_items
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_WHOLE, _VISION, _ORIGINAL = "internvl", "internvl_vision", "intern_vit_6b"
_PREFIX = {r"^(model\.)?vision_tower\.": ""}
_RENAMED = {
    ".layers.": ".layer.",
    ".class_embedding": ".cls_token",
    ".position_embedding": ".position_embeddings",
    ".patch_embedding.": ".patch_embeddings.projection.",
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.": ".attention.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
}
"""Parts of tensors' names in OpenGVLab's own weights, and what transformers calls them."""
_6B = {
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "norm_type": "rms_norm",
    "use_qk_norm": True,
}
ARCHITECTURES = {
    "internvit-6b-448px": Architecture(
        lambda: InternVLVisionConfig(**_6B, num_hidden_layers=45, image_size=448),
        5.54e9,
        "model card of OpenGVLab/InternViT-6B-448px-V1-5: 5540 M",
        "OpenGVLab/InternViT-6B-448px-V1-5",
        "MIT",
    ),
    "internvit-6b-224px": Architecture(
        lambda: InternVLVisionConfig(**_6B, num_hidden_layers=48, image_size=224),
        5.903e9,
        "model card of OpenGVLab/InternViT-6B-224px: 5903 M",
        "OpenGVLab/InternViT-6B-224px",
        "MIT",
    ),
}


class VisionTower(InternVLVisionModel):  # type: ignore[misc]
    """The library's class, not warning of the hundreds of tensors of a language model in the same files."""

    _keys_to_ignore_on_load_unexpected = (r"language_model\.", r"lm_head\.", r"multi_modal_projector\.")


class Config(PretrainedConfig):
    """Which weights, which frames at which size, and what is read out."""

    budget: int = Field(16, ge=1, description="images of one forward")
    pool: Literal["cls", "mean"] = Field("cls", description="the class token | the mean of the patches")
    num_frames: int | None = Field(None, ge=1, description="at most so many frames of a clip, evenly; unset: all")
    image_size: int | None = Field(
        None,
        ge=14,
        description="pixels a side; positions are interpolated (P1: 224); none: as the weights' processor says",
    )


class Encoder(base.PretrainedEncoder):
    """The last hidden state, pooled over each frame; this family has no final norm.

    One face frame gives one vector; black ones give the model's features of black; five minutes at 5 frames a second
    are 1,500 vectors without ``num_frames``.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """The transformer's width."""
        return int(self.model_config.hidden_size)

    def _read_config(self, folder: Path) -> Any:
        path = folder / "config.json"
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
        if kind == _ORIGINAL:
            return converted_config(json.loads(path.read_text(encoding="utf-8")))
        if kind not in {_WHOLE, _VISION}:
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {kind!r}; the internvit plug-in takes "
                f"{_WHOLE}, {_VISION}, {_ORIGINAL}"
            )
        config = super()._read_config(folder)
        return config.vision_config if kind == _WHOLE else config

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = VisionTower(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        if json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == _ORIGINAL:
            return self._load_original(folder)
        model: nn.Module = architecture.load(
            VisionTower, folder, self.config.weights, config=self.model_config, key_mapping=_PREFIX
        )
        return model

    def _load_original(self, folder: Path) -> nn.Module:
        with torch.device("meta"):
            model = self._build(self.model_config)
        try:
            tensors = dict(part for path in sorted(folder.glob("*.safetensors")) for part in converted(load_file(path)))
            model.load_state_dict(tensors, assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            why = str(error).strip()[:500]
            raise PluginError(f"weights {self.config.weights.source}: not those of an InternViT: {why}") from error
        return model

    def _prepare(self, folder: Path) -> None:
        options = {"crop_to_patches": False} | (_sized(self.config.image_size) if self.config.image_size else {})
        self._images = Images.load(AutoImageProcessor, folder, trust_remote_code=False, **options)

    def _prepare_randomly(self) -> None:
        side = self.config.image_size or self.model_config.image_size[0]
        self._images = Images(_processor(side))

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        return frame_items(index, clip.faces, self.config.num_frames)

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"pixels": self._images.resized(payloads)}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        states_NPD = self._model(self._images.normalised(inputs["pixels"])).last_hidden_state
        pooled_ND = states_NPD[:, 0] if self.config.pool == "cls" else states_NPD[:, 1:].mean(dim=1)
        return Features(pooled_ND.unsqueeze(1))


def converted_config(original: dict[str, Any]) -> Any:
    """The library's configuration of an InternViT, from OpenGVLab's ``config.json``."""
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    return InternVLVisionConfig(
        **{name: original[name] for name in (*same, "image_size", "patch_size", "layer_norm_eps")},
        use_qk_norm=original["qk_normalization"],
        attention_bias=original["qkv_bias"],
        norm_type=original.get("norm_type", "rms_norm"),
    )


def converted(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """OpenGVLab's tensors under transformers' names, query, key and value apart."""
    for name, tensor in tensors.items():
        renamed = name
        for old, new in _RENAMED.items():
            renamed = renamed.replace(old, new)
        if ".qkv." not in renamed:
            yield renamed, tensor
            continue
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            yield renamed.replace(".qkv.", f".{letter}_proj."), part


def _sized(side: int) -> dict[str, Any]:
    square = {"height": side, "width": side}
    return {"size": square, "crop_size": square}


def _processor(side: int) -> Any:
    """As in the published ``preprocessor_config.json``: bicubic, ImageNet's mean and deviation."""
    return GotOcr2ImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )


def tiny() -> Encoder:
    """An InternViT in everything but its size: 2 layers of width 32 on 28 x 28 pixels, saved and loaded as files."""
    config = InternVLVisionConfig(
        **_6B | {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
        num_hidden_layers=2,
        image_size=28,
        patch_size=7,
        initializer_range=0.2,
        layer_scale_init_value=1.0,
    )
    model = architecture.randomly(lambda: InternVLVisionModel(config))
    folder = architecture.keep_files(model, _processor(28))
    return Encoder(Config(weights=Weights(source=folder), device="cpu"))
