"""Answers of a causal language model to questions, greedily.

Shapes: B questions, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture, forward
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.weights import Weights


class Answerer:
    """A model that answers; through its chat template where it has one.

    Args:
        weights: of a causal language model with its tokenizer.
        max_tokens: most tokens of an answer.
        device: ``cuda``, ``cpu`` or ``auto``.

    Raises:
        PluginError: they cannot be loaded.
    """

    def __init__(self, weights: Weights, max_tokens: int, device: Literal["auto", "cpu", "cuda"]) -> None:
        folder = weights_.fetch(weights)
        self.max_tokens = max_tokens
        self._device = forward.pick_device(device)
        model = architecture.load(AutoModelForCausalLM, folder, weights)
        self._model: Any = model.to(self._device, torch.bfloat16 if self._device == "cuda" else torch.float32).eval()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
        except (OSError, ValueError) as error:
            raise PluginError(f"weights {weights.source}: no tokenizer beside the model: {error}") from error
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @torch.inference_mode()
    def ask(self, questions: Sequence[str]) -> list[str]:
        """The answer to each question."""
        has_template = bool(self._tokenizer.chat_template)
        texts = [self._as_chat(question) if has_template else f"{question}\n" for question in questions]
        given = self._tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not has_template)
        given = {name: given[name].to(self._device) for name in ("input_ids", "attention_mask")}
        made_BT = self._model.generate(
            **given, max_new_tokens=self.max_tokens, do_sample=False, pad_token_id=self._tokenizer.pad_token_id
        )
        answers = made_BT[:, given["input_ids"].shape[1] :]
        told: list[str] = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        return told

    def _as_chat(self, question: str) -> str:
        turns = [{"role": "user", "content": question}]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text
