"""MossFormer2 (Zhao et al. 2024, "Combining transformer and RNN-free recurrent network"), for two voices at 16 kHz.

Parameters are named and shaped as in the published checkpoint of MossFormer2_SS_16K. Sound becomes frames by a learnt
filter bank, a stack of gated attention and dilated memories masks them for each voice, and the filters' transpose makes
sound of them again.

Shapes: B sounds, S samples, T frames, C channels, K voices, G groups of N frames each, D width of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROTATED = 32
_CONV_WIDTH = 17
_MEMORY_ORDER = 20
_MEMORY_DEPTH = 2
_EXPANSION = 4


class MossFormer2(nn.Module):
    """Two voices of a mixture.

    Args:
        encoder_embedding_dim: channels of the filter bank.
        mossformer_sequence_dim: channels of the stack; even.
        num_mossformer_layer: layers of attention, each with a memory behind it.
        encoder_kernel_size: samples of a filter, twice the hop.
        num_spks: K.
        memory_channels, query_key_dim, group_size: as published unless a test wants a smaller network.

    Shapes:
        samples_BS: float32, S at least two frames: 24 samples as published.
        returns: (B, K, S), at an arbitrary scale.
    """

    def __init__(
        self,
        encoder_embedding_dim: int = 512,
        mossformer_sequence_dim: int = 512,
        num_mossformer_layer: int = 24,
        encoder_kernel_size: int = 16,
        num_spks: int = 2,
        memory_channels: int = 256,
        query_key_dim: int = 128,
        group_size: int = 256,
    ) -> None:
        super().__init__()
        hop = encoder_kernel_size // 2
        bank = nn.Conv1d(1, encoder_embedding_dim, encoder_kernel_size, hop, bias=False)
        self.enc = nn.ModuleDict({"conv1d": bank})
        stack = Stack(mossformer_sequence_dim, num_mossformer_layer, memory_channels, query_key_dim, group_size)
        self.mask_net = MaskNet(encoder_embedding_dim, mossformer_sequence_dim, num_spks, stack)
        self.dec = nn.ConvTranspose1d(encoder_embedding_dim, 1, encoder_kernel_size, hop, bias=False)

    def forward(self, samples_BS: Tensor) -> Tensor:
        """See the class for shapes."""
        frames_BCT = functional.relu(self.enc["conv1d"](samples_BS.unsqueeze(1)))
        masked_BKCT = self.mask_net(frames_BCT) * frames_BCT.unsqueeze(1)
        voices_BKS = self.dec(masked_BKCT.flatten(0, 1)).reshape(*masked_BKCT.shape[:2], -1)
        return functional.pad(voices_BKS, (0, samples_BS.shape[1] - voices_BKS.shape[2]))


class MaskNet(nn.Module):
    """A mask for each voice, (B, K, C, T), of frames (B, C, T)."""

    def __init__(self, bank: int, width: int, num_voices: int, stack: Stack) -> None:
        super().__init__()
        self.num_voices = num_voices
        self.norm = nn.GroupNorm(1, bank, eps=1e-8)
        self.conv1d_encoder = nn.Conv1d(bank, width, 1, bias=False)
        self.pos_enc = Positions(width)
        self.mdl = Residual(width, stack)
        self.conv1d_out = nn.Conv1d(width, width * num_voices, 1)
        self.conv1_decoder = nn.Conv1d(width, bank, 1, bias=False)
        self.prelu = nn.PReLU()
        self.output = nn.Sequential(nn.Conv1d(width, width, 1), nn.Tanh())
        self.output_gate = nn.Sequential(nn.Conv1d(width, width, 1), nn.Sigmoid())

    def forward(self, frames_BCT: Tensor) -> Tensor:
        """See the class for shapes."""
        h_BCT = self.pos_enc(self.conv1d_encoder(self.norm(frames_BCT)))
        h_BCT = self.conv1d_out(self.prelu(self.mdl(h_BCT)))
        each_BCT = h_BCT.reshape(len(h_BCT) * self.num_voices, -1, h_BCT.shape[2])  # each voice as a sound of its own
        each_BCT = self.conv1_decoder(self.output(each_BCT) * self.output_gate(each_BCT))
        masks: Tensor = each_BCT.reshape(len(h_BCT), self.num_voices, *each_BCT.shape[1:]).relu()
        return masks


class Positions(nn.Module):
    """Adds sines and cosines of a frame's place, times a learnt factor."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("inv_freq", 10_000.0 ** (-torch.arange(0, width, 2).float() / width))

    def forward(self, h_BCT: Tensor) -> Tensor:
        """See the class."""
        place_T = torch.arange(h_BCT.shape[2], device=h_BCT.device, dtype=self.inv_freq.dtype)
        angle_CT = self.inv_freq[:, None] * place_T
        return h_BCT + self.scale * torch.cat([angle_CT.sin(), angle_CT.cos()])


class Residual(nn.Module):
    """The stack between two norms, beside its input."""

    def __init__(self, width: int, stack: Stack) -> None:
        super().__init__()
        self.intra_mdl = nn.ModuleDict({"mossformerM": stack, "norm": nn.LayerNorm(width, eps=1e-6)})
        self.intra_norm = nn.GroupNorm(1, width, eps=1e-8)

    def forward(self, h_BCT: Tensor) -> Tensor:
        """See the class."""
        made_BTC = self.intra_mdl["norm"](self.intra_mdl["mossformerM"](h_BCT.transpose(1, 2)))
        made: Tensor = h_BCT + self.intra_norm(made_BTC.transpose(1, 2))
        return made


class Stack(nn.Module):
    """Layers of gated attention, a memory behind each; (B, T, C) to the same."""

    def __init__(self, width: int, depth: int, memory: int, query: int, group: int) -> None:
        super().__init__()
        rotary = Rotary(min(_ROTATED, query))
        self.fsmn = nn.ModuleList(MemoryBlock(width, memory) for _ in range(depth))
        self.layers = nn.ModuleList(GatedAttention(width, query, group, rotary) for _ in range(depth))

    def forward(self, h_BTC: Tensor) -> Tensor:
        """See the class."""
        for attend, remember in zip(self.layers, self.fsmn, strict=True):
            h_BTC = remember(attend(h_BTC))
        return h_BTC


class Rotary(nn.Module):
    """Turns pairs of a query's first numbers by an angle that grows with its place (Su et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(10_000.0 ** (-torch.arange(0, width, 2).float() / width), requires_grad=False)

    def angles(self, length: int) -> Tensor:
        """The angles of every place and pair, (T, pairs)."""
        place_T = torch.arange(length, device=self.freqs.device, dtype=self.freqs.dtype)
        return place_T[:, None] * self.freqs

    @staticmethod
    def turn(x_BTD: Tensor, angles: Tensor) -> Tensor:
        """The queries or keys with their first pairs turned."""
        turned, kept = x_BTD.tensor_split([2 * angles.shape[1]], dim=-1)
        even, odd = turned[..., ::2], turned[..., 1::2]
        cos, sin = angles.cos(), angles.sin()
        pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return torch.cat([pairs.flatten(-2), kept], dim=-1)


class ScaleNorm(nn.Module):
    """Brings vectors to one root mean square (Nguyen and Salazar 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.least = 1e-5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, h_BTC: Tensor) -> Tensor:
        """See the class."""
        rms: Tensor = torch.linalg.vector_norm(h_BTC, dim=-1, keepdim=True) * h_BTC.shape[-1] ** -0.5
        return h_BTC / rms.clamp(min=self.least) * self.g


class Projection(nn.Module):
    """Norm, linear map, and a depthwise convolution beside it; (B, T, C) to (B, T, width)."""

    def __init__(self, norm: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.mdl = nn.Sequential(norm, nn.Linear(channels, width), nn.SiLU(), Neighbours(width))

    def forward(self, h_BTC: Tensor) -> Tensor:
        """See the class."""
        made: Tensor = self.mdl(h_BTC)
        return made


class Neighbours(nn.Module):
    """Adds a depthwise convolution over time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv = nn.Conv1d(width, width, _CONV_WIDTH, padding=_CONV_WIDTH // 2, groups=width, bias=False)
        self.sequential = nn.ModuleDict({"1": nn.ModuleDict({"conv": conv})})

    def forward(self, h_BTC: Tensor) -> Tensor:
        """See the class."""
        conv = self.sequential["1"]["conv"]  # type: ignore[index]
        made: Tensor = h_BTC + conv(h_BTC.transpose(1, 2)).transpose(1, 2)
        return made


class OffsetScale(nn.Module):
    """Queries and keys of both kinds of attention, each by its own scale and offset of one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(4, width).normal_(std=0.02))
        self.beta = nn.Parameter(torch.zeros(4, width))

    def forward(self, shared_BTD: Tensor) -> tuple[Tensor, ...]:
        """Four tensors of the vector's shape."""
        return (shared_BTD.unsqueeze(-2) * self.gamma + self.beta).unbind(-2)


class GatedAttention(nn.Module):
    """Attention of one head within groups of frames and, linearly, over all of them, gating each other's values."""

    def __init__(self, width: int, query: int, group: int, rotary: Rotary) -> None:
        super().__init__()
        self.group = group
        self.rotary_pos_emb = rotary
        self.to_hidden = Projection(ScaleNorm(width), width, _EXPANSION * width)
        self.to_qk = Projection(ScaleNorm(width), width, query)
        self.qk_offset_scale = OffsetScale(query)
        self.to_out = Projection(ScaleNorm(2 * width), 2 * width, width)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """(B, T, C) to the same."""
        shifted, kept = h_BTC.chunk(2, dim=-1)
        x_BTC = torch.cat([functional.pad(shifted, (0, 0, 1, -1)), kept], dim=-1)
        hidden_BTC = self.to_hidden(x_BTC)
        attended_BTC = self._attend(self.to_qk(x_BTC), hidden_BTC)
        v, u = hidden_BTC.chunk(2, dim=-1)
        attended_v, attended_u = attended_BTC.chunk(2, dim=-1)
        made: Tensor = h_BTC + self.to_out(attended_u * v * torch.sigmoid(attended_v * u))
        return made

    def _attend(self, shared_BTD: Tensor, hidden_BTC: Tensor) -> Tensor:
        length = hidden_BTC.shape[1]
        angles = self.rotary_pos_emb.angles(length)
        turned = [self.rotary_pos_emb.turn(x, angles) for x in self.qk_offset_scale(shared_BTD)]
        near_q, far_q, near_k, far_k, values = (self._grouped(x) for x in (*turned, hidden_BTC))
        near = functional.relu(near_q @ near_k.transpose(-1, -2) / self.group) ** 2 @ values  # a padded value is 0
        memory_BDC = torch.einsum("bgnd,bgnc->bdc", far_k, values) / length
        far = torch.einsum("bgnd,bdc->bgnc", far_q, memory_BDC)
        return (near + far).flatten(1, 2)[:, :length]

    def _grouped(self, x_BTD: Tensor) -> Tensor:
        """(B, G, N, D), the last group filled up with zeros."""
        filled = functional.pad(x_BTD, (0, 0, 0, -x_BTD.shape[1] % self.group))
        return filled.reshape(len(x_BTD), -1, self.group, x_BTD.shape[2])


class MemoryBlock(nn.Module):
    """A gated memory in fewer channels; (B, T, C) to the same."""

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, memory, 1), nn.PReLU())
        self.norm1 = nn.LayerNorm(memory)
        self.gated_fsmn = nn.ModuleDict(
            {
                "to_u": Projection(nn.LayerNorm(memory), memory, memory),
                "to_v": Projection(nn.LayerNorm(memory), memory, memory),
                "fsmn": Memory(memory),
            }
        )
        self.norm2 = nn.LayerNorm(memory)
        self.conv2 = nn.Conv1d(memory, width, 1)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """See the class."""
        gate = self.gated_fsmn
        x = self.norm1(self.conv1(h_BTC.transpose(1, 2)).transpose(1, 2))
        x = x + gate["to_v"](x) * gate["fsmn"](gate["to_u"](x))
        made: Tensor = h_BTC + self.conv2(self.norm2(x).transpose(1, 2)).transpose(1, 2)
        return made


class Memory(nn.Module):
    """What lies before and after, by dilated convolutions that each read all that was made so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.project = nn.Linear(width, width, bias=False)
        self.conv = nn.ModuleDict()
        for i in range(1, _MEMORY_DEPTH + 1):
            kernel = (2 * _MEMORY_ORDER - 1, 1)
            self.conv[f"conv{i}"] = nn.Conv2d(
                i * width, width, kernel, padding="same", dilation=(2 ** (i - 1), 1), groups=width, bias=False
            )
            self.conv[f"norm{i}"] = nn.InstanceNorm2d(width, affine=True)
            self.conv[f"prelu{i}"] = nn.PReLU(width)

    def forward(self, h_BTC: Tensor) -> Tensor:
        """(B, T, C) to the same."""
        made = so_far = self.project(functional.relu(self.linear(h_BTC))).transpose(1, 2).unsqueeze(-1)
        for i in range(1, _MEMORY_DEPTH + 1):
            made = self.conv[f"prelu{i}"](self.conv[f"norm{i}"](self.conv[f"conv{i}"](so_far)))
            so_far = torch.cat([made, so_far], dim=1)
        remembered: Tensor = h_BTC + made.squeeze(-1).transpose(1, 2)
        return remembered
