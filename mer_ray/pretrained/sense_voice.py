"""SenseVoiceSmall (An et al. 2024, "FunAudioLLM"): speech in five languages to tokens, not one after another.

Parameters are named and shaped as in the published checkpoint. Four vectors stand before the frames: what language is
asked for, two that ask for sound events and emotion, and how numbers and marks are to be written. At the same places
the model tells what it found, as tags; behind them stand the tokens of the words (CTC).

Shapes: B sounds, T stacked frames, I numbers of one, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer_ray.pretrained.sanm import Encoder, Sizes

NUM_TAGS = 4
"""Frames before the words: language, emotion, event, way of writing."""
LANGUAGES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
"""Rows of the table of queries that ask for a language; auto: the model finds it."""
NO_SPEECH = "nospeech"
_EVENT, _EMOTION = 1, 2
_WRITTEN = 14  # numbers as digits, and punctuation
_NUM_QUERIES = 16


class SenseVoice(nn.Module):
    """Log-probabilities of tokens.

    Args:
        input_size: I.
        vocab_size: V; the token 0 is CTC's blank.
        sizes: see ``sanm.Sizes``.

    Shapes:
        frames_BTI: float32, see ``fbank``.
        languages_B: int64, of ``LANGUAGES``.
        own_BT: see ``Encoder``.
        returns: float32 (B, 4 + T, V), the tags first.
    """

    def __init__(self, input_size: int, vocab_size: int, **sizes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(_NUM_QUERIES, input_size)
        self.encoder = Encoder(input_size, Sizes(**sizes), eps=1e-5)
        self.ctc = nn.ModuleDict({"ctc_lo": nn.Linear(self.encoder.width, vocab_size)})

    def forward(self, frames_BTI: Tensor, languages_B: Tensor, own_BT: Tensor | None = None) -> Tensor:
        """See the class for shapes."""
        others = languages_B.new_tensor([_EVENT, _EMOTION, _WRITTEN]).expand(len(languages_B), -1)
        asked_BQI = self.embed(torch.cat([languages_B[:, None], others], dim=1))
        if own_BT is not None:
            own_BT = torch.cat([own_BT.new_ones(len(own_BT), NUM_TAGS), own_BT], dim=1)
        h_BTC = self.encoder(torch.cat([asked_BQI, frames_BTI], dim=1), own_BT)
        logp: Tensor = self.ctc["ctc_lo"](h_BTC).float().log_softmax(dim=-1)
        return logp
