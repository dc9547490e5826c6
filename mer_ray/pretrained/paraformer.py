"""Paraformer (Gao et al. 2022): speech to tokens in one pass, once it is known how many there are.

Parameters are named and shaped as in FunASR's published checkpoints. Every frame of the encoder is given a weight;
where the weights of frames add up to one, a token ends (continuous integrate-and-fire, Dong and Xu 2020), and the
weighted sum of its frames is what the decoder begins with.

Shapes: B sounds, T stacked frames, I numbers of one, N places of tokens, at least one, C channels, V tokens that
there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mer_ray.pretrained.sanm import EPS, Encoder, Sizes, attend, reach, remember


@dataclass(frozen=True)
class Told:
    """What the network makes of sounds.

    Attributes:
        logp_BNV: float32 log-probabilities.
        counts_B: int64, a sound's own tokens.
        ends_BN: int64, the frame in which each token ends; T or more where only the end of the sound ends it.
    """

    logp_BNV: Tensor
    counts_B: Tensor
    ends_BN: Tensor


class Paraformer(nn.Module):
    """Encoder, weights of frames, decoder.

    Args:
        input_size: I.
        vocab_size: V.
        decoder_blocks: layers of the decoder, whose other sizes are the encoder's.
        tail_threshold: what the end of a sound adds to the weights of its frames.
        sizes: of the encoder, see ``sanm.Sizes``.

    Shapes:
        frames_BTI, own_BT: see ``Encoder``.
    """

    def __init__(
        self, input_size: int, vocab_size: int, decoder_blocks: int = 16, tail_threshold: float = 0.45, **sizes: int
    ) -> None:
        super().__init__()
        known = Sizes(**sizes)
        self.tail = tail_threshold
        self.encoder = Encoder(input_size, known)
        self.predictor = Predictor(known.output_size)
        self.decoder = Decoder(known, decoder_blocks, vocab_size)

    def forward(self, frames_BTI: Tensor, own_BT: Tensor | None = None) -> Told:
        """See the class for shapes."""
        h_BTC = self.encoder(frames_BTI, own_BT)
        weights_BT = self.predictor(h_BTC, own_BT)
        said_BNC, counts_B, ends_BN = integrate(h_BTC, weights_BT, self.tail)
        logits_BNV = self.decoder(said_BNC, h_BTC, counts_B, own_BT)
        return Told(logits_BNV.float().log_softmax(dim=-1), counts_B, ends_BN)


class Predictor(nn.Module):
    """Weights of frames in [0, 1], float32 (B, T) of (B, T, C); 0 where a frame is no sound's own.

    In float32 whatever surrounds it: they add up over hundreds of frames to the number of tokens. Behind a sound's last
    frame it reads zeros, unlike funasr's own, where a clip's tokens depend on the clips beside it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cif_conv1d = nn.Conv1d(width, width, 3, padding=1)
        self.cif_output = nn.Linear(width, 1)

    def forward(self, h_BTC: Tensor, own_BT: Tensor | None) -> Tensor:
        """See the class."""
        if own_BT is not None:
            h_BTC = h_BTC.masked_fill(~own_BT.unsqueeze(-1), 0.0)
        conv, out = self.cif_conv1d, self.cif_output
        assert conv.bias is not None
        with torch.autocast(h_BTC.device.type, enabled=False):
            x_BCT = functional.conv1d(h_BTC.float().transpose(1, 2), conv.weight.float(), conv.bias.float(), padding=1)
            scores_BT1 = functional.linear(x_BCT.relu().transpose(1, 2), out.weight.float(), out.bias.float())
        weights_BT = scores_BT1.squeeze(-1).sigmoid()
        return weights_BT if own_BT is None else weights_BT.masked_fill(~own_BT, 0.0)


def integrate(h_BTC: Tensor, weights_BT: Tensor, tail: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of frames, one for each token.

    Laid end to end the weights are a line. Token n takes of each frame as much as lies between n and n + 1 on it.

    Args:
        h_BTC: the frames.
        weights_BT: of each, at most 1; 0 where it is no sound's own.
        tail: what follows the last frame on the line.

    Returns:
        The sums (B, N, C), the number of each sound's tokens (B,), and the frame in which each token ends (B, N).

    >>> sums, counts, ends = integrate(torch.tensor([[[1.0], [10.0], [100.0]]]), torch.tensor([[0.5, 0.75, 0.5]]), 0.25)
    >>> sums.flatten().tolist(), counts.tolist(), ends.tolist()
    ([5.5, 52.5], [2], [[1, 3]])
    """
    until_BT = weights_BT.double().cumsum(dim=1)
    counts_B = (until_BT[:, -1] + tail).floor().long()
    token_N1 = torch.arange(max(1, int(counts_B.max())), device=h_BTC.device)[:, None]
    until_B1T, from_B1T = until_BT[:, None], (until_BT - weights_BT)[:, None]
    share_BNT = (until_B1T.minimum(token_N1 + 1) - from_B1T.maximum(token_N1)).clamp(min=0).to(h_BTC.dtype)
    ends_BN = (until_B1T < token_N1 + 1).sum(dim=-1)
    return share_BNT @ h_BTC, counts_B, ends_BN


class Decoder(nn.Module):
    """What stands for each token, with all others and all frames in sight, to logits (B, N, V)."""

    def __init__(self, sizes: Sizes, num_blocks: int, vocab_size: int) -> None:
        super().__init__()
        width = sizes.output_size
        self.decoders = nn.ModuleList(DecoderLayer(sizes) for _ in range(num_blocks))
        last = {"norm1": nn.LayerNorm(width, EPS), "feed_forward": NormedFeedForward(width, sizes.linear_units)}
        self.decoders3 = nn.ModuleList([nn.ModuleDict(last)])
        self.after_norm = nn.LayerNorm(width, EPS)
        self.output_layer = nn.Linear(width, vocab_size)

    def forward(self, said_BNC: Tensor, h_BTC: Tensor, counts_B: Tensor, own_BT: Tensor | None) -> Tensor:
        """See the class."""
        place_N = torch.arange(said_BNC.shape[1], device=said_BNC.device)
        own_BN = place_N < counts_B[:, None]
        for layer in self.decoders:
            said_BNC = layer(said_BNC, h_BTC, own_BN, own_BT)
        last = self.decoders3[0]
        made_BNC = last["feed_forward"](last["norm1"](said_BNC))  # type: ignore[index]
        logits: Tensor = self.output_layer(self.after_norm(made_BNC))
        return logits


class DecoderLayer(nn.Module):
    """Two linear maps, a memory of the tokens around, and attention over the frames."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.output_size
        memory = nn.Conv1d(width, width, sizes.kernel_size, groups=width, bias=False)
        self.reach = reach(sizes.kernel_size, sizes.sanm_shfit)
        self.heads = sizes.attention_heads
        self.self_attn = nn.ModuleDict({"fsmn_block": memory})
        self.src_attn = nn.ModuleDict(
            {
                "linear_q": nn.Linear(width, width),
                "linear_k_v": nn.Linear(width, 2 * width),
                "linear_out": nn.Linear(width, width),
            }
        )
        self.feed_forward = NormedFeedForward(width, sizes.linear_units)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, EPS) for _ in range(3))

    def forward(self, said_BNC: Tensor, h_BTC: Tensor, own_BN: Tensor, own_BT: Tensor | None) -> Tensor:
        """(B, N, C) to the same."""
        made_BNC = self.norm2(self.feed_forward(self.norm1(said_BNC)))
        said_BNC = said_BNC + remember(made_BNC, self.self_attn["fsmn_block"], self.reach, own_BN)
        keys_BTC, values_BTC = self.src_attn["linear_k_v"](h_BTC).chunk(2, dim=-1)
        asked_BNC = self.src_attn["linear_q"](self.norm3(said_BNC))
        made: Tensor = said_BNC + self.src_attn["linear_out"](
            attend(asked_BNC, keys_BTC, values_BTC, self.heads, own_BT)
        )
        return made


class NormedFeedForward(nn.Module):
    """Two linear maps with a ReLU and a norm between them."""

    def __init__(self, width: int, linear_units: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, linear_units)
        self.norm = nn.LayerNorm(linear_units, EPS)
        self.w_2 = nn.Linear(linear_units, width, bias=False)

    def forward(self, h_BNC: Tensor) -> Tensor:
        """(B, N, C) to the same."""
        made: Tensor = self.w_2(self.norm(functional.relu(self.w_1(h_BNC))))
        return made
