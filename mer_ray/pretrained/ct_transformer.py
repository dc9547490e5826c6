"""CT-Transformer (Chen et al. 2020, "Controllable time-delay transformer"): the mark behind each word of a text.

Parameters are named and shaped as in FunASR's published checkpoints.

Shapes: B texts, T words, L marks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mer_ray.pretrained.sanm import Encoder, Sizes


class CTTransformer(nn.Module):
    """Logits of marks.

    Args:
        vocab_size: of the words.
        embed_unit: width of a word.
        marks: what each logit stands for.
        sizes: of the encoder, see ``sanm.Sizes``.

    Shapes:
        words_BT: int64.
        own_BT: see ``Encoder``.
        returns: (B, T, L).
    """

    def __init__(self, vocab_size: int, embed_unit: int, marks: Sequence[str], **sizes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_unit)
        self.encoder = Encoder(embed_unit, Sizes(**sizes))
        self.decoder = nn.Linear(self.encoder.width, len(marks))

    def forward(self, words_BT: Tensor, own_BT: Tensor | None = None) -> Tensor:
        """See the class for shapes."""
        logits: Tensor = self.decoder(self.encoder(self.embed(words_BT), own_BT))
        return logits
