"""Texts as the token ids that a language model takes: special tokens, windows, padding.

Shapes: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoTokenizer

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.weights import Weights

Which = Literal["content", "all", "cls", "last"]


@dataclass(frozen=True)
class Window:
    """A text, or a part of a long one, with the special tokens round it.

    Attributes:
        ids: what the model takes, never empty.
        start: position of the first token of the text itself.
        stop: position behind the last; a window without any such token counts all its tokens as the text's.
    """

    ids: list[int]
    start: int
    stop: int

    def span(self, which: Which) -> tuple[int, int]:
        """First position read out, and the one behind the last."""
        return {
            "content": (self.start, self.stop),
            "all": (0, len(self.ids)),
            "cls": (0, 1),
            "last": (self.stop - 1, self.stop),
        }[which]


class Tokens:
    """Cuts texts into windows of token ids, as the model's own tokenizer makes them.

    Args:
        tokenizer: of transformers.
        window: most tokens of one window, the special ones included.

    Raises:
        ConfigError: the special tokens alone fill a window.
    """

    def __init__(self, tokenizer: Any, window: int) -> None:
        self.tokenizer = tokenizer
        self.before, self.after = _special_tokens(tokenizer)
        self.room = window - len(self.before) - len(self.after)
        if self.room < 1:
            raise ConfigError(f"window_tokens={window} leaves no room beside the tokenizer's special tokens")

    def windows(self, text: str) -> list[Window]:
        """The text's windows, at least one, of nearly equal size.

        A text without tokens becomes the special tokens alone; where the tokenizer adds none, the first that it has of
        the tokens for the beginning of a text, its end, and padding.
        """
        content = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        count = max(1, -(-len(content) // self.room))
        windows = []
        for part in np.array_split(np.array(content, np.int64), count):
            ids = [*self.before, *part.tolist(), *self.after] or [self._substitute()]
            start, stop = (len(self.before), len(self.before) + len(part)) if len(part) else (0, len(ids))
            windows.append(Window(ids, start, stop))
        return windows

    def collate(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """``input_ids`` (B, T), padded on the right, and ``attention_mask``, but only where something is padded.

        Without a mask attention takes its fastest kernel.
        """
        lengths = [len(window.ids) for window in windows]
        longest = max(lengths)
        ids = torch.zeros(len(windows), longest, dtype=torch.long)  # 0 is some token of every model; the mask hides it
        for row, window in zip(ids, windows, strict=True):
            row[: len(window.ids)] = torch.tensor(window.ids)
        if min(lengths) == longest:
            return {"input_ids": ids}
        mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}

    def _substitute(self) -> int:
        tokenizer = self.tokenizer
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return next((token for token in known if token is not None), 0)


def load(folder: Path, weights: Weights, num_embeddings: int) -> Any:
    """The tokenizer that stands beside a model's weights.

    Args:
        folder: of ``weights.fetch``.
        weights: says whether the tokenizer's own code may run.
        num_embeddings: of the model.

    Raises:
        PluginError: it cannot be loaded, is empty (what transformers makes of a folder without a vocabulary), or has
            more tokens than the model has embeddings.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=weights.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise PluginError(
            f"weights {weights.source}: no tokenizer can be loaded from {folder}: {error}; the model's tokenizer.json "
            "and tokenizer_config.json belong there"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise PluginError(
            f"weights {weights.source}: no vocabulary in {folder}; the model's tokenizer.json (or vocab.txt, "
            "tokenizer.model) belongs there"
        )
    if tokenizer.vocab_size > num_embeddings:
        raise PluginError(
            f"weights {weights.source}: a tokenizer of {tokenizer.vocab_size} tokens beside {num_embeddings} "
            "embeddings; it is of another model"
        )
    return tokenizer


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind every text."""
    framed: list[int] = tokenizer("a")["input_ids"]
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise PluginError(f"{type(tokenizer).__name__} changes a text's tokens when it adds special ones")
