"""Punctuation by a model that tells for each word which mark stands behind it: BERT and its kin with a head for tokens.

Weights are a folder of transformers with a fast tokenizer; the labels of its ``config.json`` name the marks, as
themselves or in words. A mark may stand behind a word, and in scripts without spaces behind any sign. A text is asked
about in windows of tokens that overlap, so that a long one has no edge.

Shapes: B windows, T tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import nn
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig, PretrainedModel
from mer_ray.pretrained.weights import Weights
from mer_ray.punctuators import base

_MARKS = {"comma": ",", "period": ".", "question": "?", "exclamation": "!", "colon": ":", "semicolon": ";", "dash": "-"}
_NOTHING = frozenset({"0", "o", "none", "label_0", "_", ""})
_OVERLAP = 16  # tokens at each end of a window that are its neighbour's too


class Config(PretrainedConfig):
    """Which weights, and how a text is cut."""

    budget: int = Field(4096, ge=1, description="tokens of one forward: windows x longest")
    tokens: int = Field(
        256, gt=2 * _OVERLAP, description="tokens of a window, of which 16 at each end are its neighbour's too"
    )


class Punctuator(PretrainedModel, base.Punctuator):
    """Words with the marks that the model tells; a word that has one is left as it is, and so is its spelling."""

    version: ClassVar[int] = 1
    architectures: ClassVar[dict[str, Architecture]] = {}
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.weights.is_random:
            raise ConfigError("weights.source: random weights tell no marks; name a folder")

    def punctuate(self, texts: Sequence[str]) -> list[str]:
        """See the base class."""
        runner = self.runner
        lines = [" ".join(text.split()) for text in texts]
        items = [item for i, line in enumerate(lines) for item in self._items(i, line)]
        marks: list[dict[int, str]] = [{} for _ in lines]
        for item, labels in zip(items, runner.map(items, self._collate, self._forward), strict=True):
            for end, place in item.payload["asked"].items():
                marks[item.clip][end] = self._marks[labels[place]]
        return [base.marked(line, told) for line, told in zip(lines, marks, strict=True)]

    @cached_property
    def _marks(self) -> dict[int, str]:
        """The mark of each label, nothing for none."""
        marks = {}
        for number, name in self.model_config.id2label.items():
            told = str(name).strip().lower().removeprefix("b-").removeprefix("i-")
            known = next((mark for word, mark in _MARKS.items() if told.startswith(word)), None)
            if known is None and told not in _NOTHING and len(told) > 1:
                raise ConfigError(f"weights {self.config.weights.source}: the label {name!r} names no mark")
            marks[int(number)] = known if known is not None else "" if told in _NOTHING else told
        return marks

    def _items(self, index: int, line: str) -> list[Item]:
        """Windows of a text: their tokens, and for each place that may have a mark the token that tells of it."""
        told = {"truncation": True, "max_length": self.config.tokens, "stride": 2 * _OVERLAP}
        made = self._tokenizer(line, return_overflowing_tokens=True, return_offsets_mapping=True, **told)
        items = []
        for window, ids in enumerate(made["input_ids"]):
            ends = [end for _, end in made["offset_mapping"][window]]
            first = _OVERLAP if window else 0
            last = len(ids) - (0 if window == len(made["input_ids"]) - 1 else _OVERLAP)
            last_of = {end: place for place, end in enumerate(ends) if end and base.may_have_mark(line, end)}
            asked = {end: place for end, place in last_of.items() if first <= place < last}
            if asked:
                items.append(Item(index, len(ids), {"ids": ids, "asked": asked}))
        return items

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        made: dict[str, Any] = self._tokenizer.pad({"input_ids": [one["ids"] for one in payloads]}, return_tensors="pt")
        return {**made, "lengths": [len(one["ids"]) for one in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> base.Labels:
        assert self._model is not None
        lengths = inputs.pop("lengths")
        return base.Labels(self._model(**inputs).logits.argmax(dim=-1), lengths)

    def _build(self, model_config: Any) -> nn.Module:  # noqa: ANN401 - the library's
        model: nn.Module = AutoModelForTokenClassification.from_config(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(AutoModelForTokenClassification, folder, self.config.weights)
        return model

    def _prepare(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.is_fast:
            raise PluginError(f"weights {self.config.weights.source}: a fast tokenizer (tokenizer.json) is needed")
        _ = self._marks

    def _prepare_randomly(self) -> None:
        raise AssertionError("there are no random weights of it")


def tiny() -> Punctuator:
    """A BERT of bytes in everything but its size: 2 layers of width 32 and four labels, saved and loaded as files."""
    tokenizer = architecture.byte_tokenizer(cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    labels = dict(enumerate(("O", "COMMA", "PERIOD", "QUESTION")))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id, id2label=labels, label2id={name: i for i, name in labels.items()},
    )  # fmt: skip
    model = architecture.randomly(lambda: AutoModelForTokenClassification.from_config(config))
    return Punctuator(Config(weights=Weights(source=architecture.keep_files(model, tokenizer)), device="cpu"))
