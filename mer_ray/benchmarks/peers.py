"""The usual way to extract features, written plainly: what the pipeline is measured against.

One clip per forward, float32, hidden states of all layers kept, the last four summed, mean over time, one ``.npy`` per
clip. A family that is not here is compared with its own encoder run that way: one clip at a time in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModel, CLIPImageProcessor, CLIPVisionModelWithProjection, Wav2Vec2FeatureExtractor

from mer_ray import registry
from mer_ray.config import EncoderConfig
from mer_ray.encoders.base import ClipInput, PretrainedEncoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained.architecture import Architecture, byte_tokenizer, randomly
from mer_ray.types import SAMPLE_RATE_HZ

SUM_OF_LAST_FOUR = {"layers": 4, "combine": "sum"}
"""The options that make an encoder with hidden states read out what the peer does."""


@dataclass(frozen=True)
class Peer:
    """How a family is usually run.

    Attributes:
        build: the library's model of a library's configuration.
        inputs: of one clip, on the CPU.
        vector: the pooled features, (D,), of the model's output.
        options: of the encoder, to read out the same.
    """

    build: Callable[[Any], nn.Module]
    inputs: Callable[[ClipInput, Any], Mapping[str, Tensor]]
    vector: Callable[[Any], Tensor]
    options: Mapping[str, Any]


def _hidden_states(output: Any) -> Tensor:  # noqa: ANN401 - a transformers output
    return torch.stack(output.hidden_states[-4:]).sum(0)[0].mean(0)


def _speech(clip: ClipInput, config: Any) -> Mapping[str, Tensor]:  # noqa: ANN401
    extractor = Wav2Vec2FeatureExtractor(do_normalize=getattr(config, "feat_extract_norm", "layer") == "layer")
    return dict(extractor(clip.audio, sampling_rate=SAMPLE_RATE_HZ, return_attention_mask=False, return_tensors="pt"))


def _pictures(clip: ClipInput, config: Any) -> Mapping[str, Tensor]:  # noqa: ANN401
    assert clip.faces is not None
    side = {"height": config.image_size, "width": config.image_size}
    processor = CLIPImageProcessor(size={"shortest_edge": config.image_size}, crop_size=side)
    return dict(processor(images=list(clip.faces), return_tensors="pt"))


def _words(clip: ClipInput, config: Any) -> Mapping[str, Tensor]:  # noqa: ANN401
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
    if config.pad_token_id == 0:
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    ids = byte_tokenizer(**names)(clip.text, return_tensors="pt")["input_ids"]
    most = config.max_position_embeddings - (config.pad_token_id + 1 if config.pad_token_id else 0)
    if ids.shape[1] > most:
        raise ConfigError(
            f"a clip's text has {ids.shape[1]} tokens and the model {most} positions; give clips of fewer seconds"
        )
    return {"input_ids": ids}


PEERS: dict[str, Peer] = {
    "hubert": Peer(AutoModel.from_config, _speech, _hidden_states, SUM_OF_LAST_FOUR),
    "clip": Peer(CLIPVisionModelWithProjection, _pictures, lambda output: output.image_embeds.mean(0), {}),
    "text_bert": Peer(AutoModel.from_config, _words, _hidden_states, {**SUM_OF_LAST_FOUR, "tokens": "all"}),
}


class PeerRun:
    """A family's model with the same random weights as the encoder's, run the usual way.

    Args:
        peer: the family.
        published: the architecture.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, peer: Peer, published: Architecture, device: str) -> None:
        self.peer = peer
        self.config = published.config()
        self.device = device
        self.model = randomly(lambda: peer.build(self.config), device).float().eval()

    def run(self, clips: Mapping[str, ClipInput], folder: Path) -> None:
        """Write one ``<clip_id>.npy`` per clip."""
        for clip_id, clip in clips.items():
            with torch.inference_mode():
                output = self.model(**self._inputs(clip), output_hidden_states=True)
            np.save(folder / f"{clip_id}.npy", self.peer.vector(output).float().cpu().numpy())

    def _inputs(self, clip: ClipInput) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in self.peer.inputs(clip, self.config).items()}


class OneByOne:
    """An encoder without a ``Peer``: its own code, float32, one clip at a time."""

    def __init__(self, encoder: EncoderConfig, device: str) -> None:
        options = {**encoder.options, "dtype": "float32", "device": device}
        self.encoder = registry.build("encoders", encoder.plugin, options)
        self.encoder.load()

    def run(self, clips: Mapping[str, ClipInput], folder: Path) -> None:
        """Write one ``<clip_id>.npy`` per clip."""
        for clip_id, clip in clips.items():
            (frames,) = self.encoder.encode([clip])
            np.save(folder / f"{clip_id}.npy", frames.mean(axis=0))


def flops(peer: Peer | None, published: Architecture, encoder: PretrainedEncoder, clips: Sequence[ClipInput]) -> float:
    """Floating-point operations of a model on the clips, none padded to another.

    Args:
        peer: the family's, whose library's model is counted on the meta device.
        published: the architecture.
        encoder: without a ``peer`` it is run on one clip after the other, and counted.
        clips: what the encoder reads.
    """
    if peer is None:
        return count_flops(lambda: [encoder.encode([clip]) for clip in clips])
    config = published.config()
    with torch.device("meta"):
        model = peer.build(config).eval()
    given = [{name: value.to("meta") for name, value in peer.inputs(clip, config).items()} for clip in clips]
    with torch.no_grad():  # parametrised convolutions cannot be counted in inference mode
        return count_flops(lambda: [model(**inputs) for inputs in given])


def count_flops(act: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products in ``act``, run as it is written.

    PyTorch's counter knows neither a compiled model nor the attention kernels of CPUs.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    counter = FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), counter:
        act()
    return float(counter.get_total_flops())


def read(folder: Path, clip_id: str) -> NDArray[np.float32]:
    """A vector that a peer wrote."""
    return np.asarray(np.load(folder / f"{clip_id}.npy"), np.float32)
