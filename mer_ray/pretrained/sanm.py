"""Attention with a memory (SAN-M, Gao et al. 2020), the encoder of SenseVoice, Paraformer and CT-Transformer.

Parameters are named and shaped as in FunASR's published checkpoints. Beside the attention of a layer stands a depthwise
convolution over the same values.

Shapes: B sounds, T frames, I numbers of a frame, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-12
"""Of the norms of all but SenseVoice."""


@dataclass(frozen=True)
class Sizes:
    """An encoder's, as its published configuration names them.

    Attributes:
        output_size: C.
        attention_heads: of each layer.
        linear_units: width between the two linear maps of a layer.
        num_blocks: layers.
        tp_blocks: more layers, behind a norm, with a norm of their own.
        kernel_size: frames that the convolution reads.
        sanm_shfit: by how many of them it reads further back than ahead; FunASR's own spelling.
    """

    output_size: int = 512
    attention_heads: int = 4
    linear_units: int = 2048
    num_blocks: int = 50
    tp_blocks: int = 0
    kernel_size: int = 11
    sanm_shfit: int = 0


class Encoder(nn.Module):
    """Frames to frames of the same number.

    Args:
        input_size: I.
        sizes: of the layers.
        eps: of the norms.

    Shapes:
        frames_BTI: float32.
        own_BT: bool, which frames are a sound's own, at least one per row; None where all are. What stands elsewhere
            is not read.
        returns: (B, T, C).
    """

    def __init__(self, input_size: int, sizes: Sizes, eps: float = EPS) -> None:
        super().__init__()
        width = self.width = sizes.output_size
        self.encoders0 = nn.ModuleList([Layer(input_size, sizes, eps)])
        self.encoders = nn.ModuleList(Layer(width, sizes, eps) for _ in range(sizes.num_blocks - 1))
        self.after_norm = nn.LayerNorm(width, eps)
        self.tp_encoders = nn.ModuleList(Layer(width, sizes, eps) for _ in range(sizes.tp_blocks))
        self.tp_norm = nn.LayerNorm(width, eps) if sizes.tp_blocks else nn.Identity()

    def forward(self, frames_BTI: Tensor, own_BT: Tensor | None = None) -> Tensor:
        """See the class for shapes."""
        h_BTC = frames_BTI * self.width**0.5 + positions(frames_BTI)
        for layer in (*self.encoders0, *self.encoders):
            h_BTC = layer(h_BTC, own_BT)
        h_BTC = self.after_norm(h_BTC)
        for layer in self.tp_encoders:
            h_BTC = layer(h_BTC, own_BT)
        made: Tensor = self.tp_norm(h_BTC)
        return made


def pad(rows: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Frames (T, I), or numbers of words (T,), of several sounds as one batch.

    Returns:
        (B, T, ...) filled up with zeros, and which places are a sound's own, bool (B, T); None where all are.
    """
    lengths_B = torch.tensor([len(one) for one in rows])
    own_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, None if own_BT.all() else own_BT


def positions(frames_BTI: Tensor) -> Tensor:
    """Sines, then cosines, of the frames' places counted from 1, float32 (T, I)."""
    length, size = frames_BTI.shape[1:]
    place_T = torch.arange(1, length + 1, device=frames_BTI.device, dtype=torch.float32)
    order = torch.arange(size // 2, device=frames_BTI.device, dtype=torch.float32)
    angle_TI = place_T[:, None] * torch.exp(order * (-math.log(10_000) / (size / 2 - 1)))
    return torch.cat([angle_TI.sin(), angle_TI.cos()], dim=1)


class Layer(nn.Module):
    """Attention with its memory, and two linear maps; each behind a norm and beside what it is given.

    The first layer of an encoder, whose frames have another width, has nothing beside its attention.
    """

    def __init__(self, size: int, sizes: Sizes, eps: float) -> None:
        super().__init__()
        self.self_attn = Attention(size, sizes)
        self.feed_forward = FeedForward(sizes.output_size, sizes.linear_units)
        self.norm1 = nn.LayerNorm(size, eps)
        self.norm2 = nn.LayerNorm(sizes.output_size, eps)

    def forward(self, h_BTI: Tensor, own_BT: Tensor | None) -> Tensor:
        """(B, T, I) to (B, T, C)."""
        made_BTC = self.self_attn(self.norm1(h_BTI), own_BT)
        h_BTC = h_BTI + made_BTC if h_BTI.shape == made_BTC.shape else made_BTC
        made: Tensor = h_BTC + self.feed_forward(self.norm2(h_BTC))
        return made


class Attention(nn.Module):
    """Attention over all frames, plus the memory of its values."""

    def __init__(self, size: int, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.output_size
        if width % sizes.attention_heads:
            raise ValueError(f"output_size={width} is no multiple of attention_heads={sizes.attention_heads}")
        self.heads = sizes.attention_heads
        self.reach = reach(sizes.kernel_size, sizes.sanm_shfit)
        self.linear_q_k_v = nn.Linear(size, 3 * width)
        self.linear_out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, sizes.kernel_size, groups=width, bias=False)

    def forward(self, h_BTI: Tensor, own_BT: Tensor | None) -> Tensor:
        """(B, T, I) to (B, T, C)."""
        queries, keys, values_BTC = self.linear_q_k_v(h_BTI).chunk(3, dim=-1)
        made_BTC = attend(queries, keys, values_BTC, self.heads, own_BT)
        memory_BTC = remember(values_BTC, self.fsmn_block, self.reach, own_BT)
        out: Tensor = self.linear_out(made_BTC) + memory_BTC
        return out


def attend(queries_BSC: Tensor, keys_BTC: Tensor, values_BTC: Tensor, heads: int, own_BT: Tensor | None) -> Tensor:
    """The values (B, S, C) that every query takes of its own keys, by heads."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (queries_BSC, keys_BTC, values_BTC))
    mask = None if own_BT is None else own_BT[:, None, None, :]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def reach(kernel_size: int, shift: int) -> tuple[int, int]:
    """Frames that the convolution reads before and after one."""
    before = (kernel_size - 1) // 2 + shift
    return before, kernel_size - 1 - before


def remember(values_BTC: Tensor, block: nn.Module, span: tuple[int, int], own_BT: Tensor | None) -> Tensor:
    """The values plus their depthwise convolution, which finds zeros where nothing is a sound's own."""
    if own_BT is not None:
        values_BTC = values_BTC.masked_fill(~own_BT.unsqueeze(-1), 0.0)
    near_BTC: Tensor = block(functional.pad(values_BTC.transpose(1, 2), span)).transpose(1, 2)
    return values_BTC + near_BTC


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, width: int, linear_units: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, linear_units)
        self.w_2 = nn.Linear(linear_units, width)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """(B, T, C) to the same."""
        made: Tensor = self.w_2(functional.relu(self.w_1(h_BTC)))
        return made
