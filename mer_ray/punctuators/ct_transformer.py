"""CT-Transformer: Chinese marks, and those of English words in Chinese; beside recognisers such as ``paraformer``.

Published as a pickle, ``model.pt``, with ``tokens.json`` beside; ``jobs/weights.py convert`` makes a folder of them
that is loaded here. The network is this package's own, see ``pretrained.ct_transformer``. A word is a Chinese sign, or
what of Latin ones stands side by side. A text is asked about in windows that overlap, so that a long one has no edge.

Shapes: B windows, T words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture, funasr, pieces
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.checkpoint import Checkpoint
from mer_ray.pretrained.ct_transformer import CTTransformer
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.network import NetworkModel
from mer_ray.pretrained.sanm import pad
from mer_ray.pretrained.weights import Weights
from mer_ray.punctuators import base

if TYPE_CHECKING:
    from torch import nn

_WORD = re.compile(r"[\x21-\x7e]+|[^\x00-\x7f\s]")
_UNKNOWN = "<unk>"
_JIEBA = "jieba_usr_dict"
_NOTHING = frozenset({_UNKNOWN, "_"})
_PERIOD, _ENDS = "。", frozenset("。？！")
_LATIN = str.maketrans("，。？、！", ",.?,!")
_OVERLAP = 16  # words at each end of a window that are its neighbour's too
_PUBLISHED: dict[str, Any] = {
    "vocab_size": 272727,
    "embed_unit": 256,
    "marks": [_UNKNOWN, "_", "，", "。", "？", "、"],
    "output_size": 256,
    "attention_heads": 8,
    "linear_units": 1024,
    "num_blocks": 4,
    "kernel_size": 11,
    "sanm_shfit": 0,
}
ARCHITECTURES = {
    "ct-transformer-zh-cn": Architecture(
        lambda: dict(_PUBLISHED),
        73e6,
        "its 272727 words of 256 numbers, and four layers",
        "ModelScope's iic/punc_ct-transformer_zh-cn-common-vocab272727-pytorch",
        "Apache-2.0",
    ),
}


class Config(PretrainedConfig):
    """Which weights, and how a text is cut."""

    budget: int = Field(4096, ge=1, description="words of one forward: windows x longest")
    words: int = Field(
        200, gt=2 * _OVERLAP, description="words of a window, of which 16 at each end are its neighbour's too"
    )


class Punctuator(NetworkModel, base.Punctuator):
    """Words with the marks that the model tells; a text's last has one that ends a sentence, as in funasr.

    A word that has a mark is left as it is. Behind words in Latin letters marks are Latin.
    """

    version: ClassVar[int] = 1
    architectures: ClassVar = ARCHITECTURES
    beside: ClassVar = ((pieces.TOKENS,),)
    config: Config

    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """See the base class."""
        return CTTransformer(**model_config)

    def published(self, folder: Path) -> dict[str, Any]:
        """See the base class."""
        told = funasr.read(folder, ("CTTransformer",))
        if (folder / _JIEBA).exists():
            raise PluginError(f"{folder / _JIEBA}: this model is asked about words that jieba finds, not about signs")
        if told is None:
            return super().published(folder)
        network = funasr.part(told, "model_conf")
        names = {"embed_unit": "embed_unit", "marks": "punc_list"}
        more = {name: network[theirs] for name, theirs in names.items() if theirs in network}
        count = {"vocab_size": len(pieces.load(folder, str(folder)))}
        return {**self.model_config, **count, **funasr.encoder_sizes(told), **more}

    def punctuate(self, texts: Sequence[str]) -> list[str]:
        """See the base class."""
        runner = self.runner
        lines = [" ".join(text.split()) for text in texts]
        ends = [[word.end() for word in _WORD.finditer(line)] for line in lines]
        items = [item for i, line in enumerate(lines) for item in self._items(i, line)]
        names: list[list[str]] = [[""] * len(one) for one in ends]
        for item, labels in zip(items, runner.map(items, self._collate, self._forward), strict=True):
            start, first, last = item.payload["window"]
            names[item.clip][first:last] = [self._marks[label] for label in labels[first - start : last - start]]
        return [_marked(line, dict(zip(*one, strict=True))) for line, *one in zip(lines, ends, names, strict=True)]

    def _items(self, index: int, line: str) -> list[Item]:
        """Windows of a text: its words' numbers, where it begins, and from which to which word it is asked about."""
        numbers = [self._number(word) for word in _WORD.findall(line)]
        size = self.config.words
        items = []
        for start in range(0, max(1, len(numbers) - 2 * _OVERLAP), size - 2 * _OVERLAP):
            part = numbers[start : start + size]
            is_last = start + size >= len(numbers)
            asked = (start + (_OVERLAP if start else 0), start + len(part) - (0 if is_last else _OVERLAP))
            if part:
                items.append(Item(index, len(part), {"words": part, "window": (start, *asked)}))
        return items

    def _number(self, word: str) -> int:
        return self._numbers.get(word, self._numbers.get(word.lower(), self._numbers[_UNKNOWN]))

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        import torch  # noqa: PLC0415

        words_BT, own_BT = pad([torch.tensor(one["words"]) for one in payloads])
        return {"words": words_BT, "own": own_BT, "lengths": [len(one["words"]) for one in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> base.Labels:
        assert self._model is not None
        return base.Labels(self._model(inputs["words"], inputs["own"]).argmax(dim=-1), inputs["lengths"])

    def _prepare(self, folder: Path) -> None:
        self._set_tokens(pieces.load(folder, self.config.weights.source, self.model_config["vocab_size"]))

    def _prepare_randomly(self) -> None:
        self._set_tokens(_made_up(self.model_config["vocab_size"]))

    def _set_tokens(self, tokens: list[str]) -> None:
        self._numbers = {token: i for i, token in enumerate(tokens)}
        if _UNKNOWN not in self._numbers:
            raise PluginError(f"weights {self.config.weights.source}: the tokens lack {_UNKNOWN}")
        self._marks = ["" if mark in _NOTHING else mark for mark in self.model_config["marks"]]


def _marked(line: str, told: dict[int, str]) -> str:
    """A text with marks behind the places that they are told of.

    >>> _marked("你好 yes 我", {1: "，", 2: "。", 6: "、", 8: ""})
    '你，好。 yes, 我。'
    """
    if not told:
        return line
    if told[max(told)] not in _ENDS:
        told |= {max(told): _PERIOD}
    latin = {end: mark.translate(_LATIN) if line[end - 1].isascii() else mark for end, mark in told.items()}
    return base.marked(line, {end: mark for end, mark in latin.items() if base.may_have_mark(line, end)})


def _made_up(count: int) -> list[str]:
    """Tokens for random weights: FunASR's special ones, and some signs."""
    special = ["<blank>", "<s>", "</s>"]
    return [*special, *(chr(ord("一") + i) for i in range(count - len(special) - 1)), _UNKNOWN]


def tiny() -> Punctuator:
    """The published network in everything but its size, saved and loaded as files."""
    config = _PUBLISHED | {"vocab_size": 64, "embed_unit": 32, "output_size": 32, "attention_heads": 2}
    config |= {"linear_units": 64, "num_blocks": 2}
    model = architecture.randomly(lambda: CTTransformer(**config))
    parts = (Checkpoint(config, model), pieces.Pieces(_made_up(64)))
    return Punctuator(Config(weights=Weights(source=architecture.keep_files(*parts)), device="cpu"))
