"""From a transcript to a language model's ranking of the classes (P3 section 3.4): a hint for text encoders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import requests
from pydantic import ValidationError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mer_ray.config import HintConfig
from mer_ray.errors import ClipError, ConfigError, MachineFault, PluginError, Reason
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.weights import Weights
from mer_ray.registry import explain
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.isolate import attempt, isolate

_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 120
_RETRIES = Retry(
    total=6, backoff_factor=1.0, status_forcelist=(408, 429, 500, 502, 503, 504), allowed_methods=None,
    respect_retry_after_header=True,
)  # fmt: skip
_DOWN = (401, 403, *_RETRIES.status_forcelist)
"""What a server answers that turns everybody away; other refusals are of the question."""
_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL | re.IGNORECASE)

Ask = Callable[[Sequence[str]], list[str | ClipError]]


class LLMHintStage(Stage):
    """Makes the ``hint`` table: the classes that the answer names, in its order. A clip without a transcript is absent.

    An answer that names no class leaves an empty ranking, and is kept.

    Args:
        hint: who is asked, and what.

    Raises:
        ConfigError: nobody is named, the model's weights are named wrongly, or the prompt lacks a place.
    """

    name = "hint"
    version = 1
    reads = ("transcript",)

    def __init__(self, hint: HintConfig) -> None:
        if (hint.endpoint is None) == (hint.weights is None):
            raise ConfigError("hint: name who ranks the classes, by hint.endpoint and hint.model or by hint.weights")
        if "{text}" not in hint.prompt or "{classes}" not in hint.prompt:
            raise ConfigError("hint.prompt: the places of the transcript and the classes are written {text}, {classes}")
        self.hint, self.weights = hint, None if hint.weights is None else _weights(hint.weights)
        self.resources = Resources.of(hint, cpus=hint.cpus, gpus=hint.gpus, batch_size=64, clip_seconds=_ANSWER_SECONDS)
        self._ask: Ask | None = None

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The ranking, most likely first, and the whole answer."""
        return (pa.field("ranking", pa.list_(pa.string())), pa.field("answer", pa.string()))

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class: who was asked, and what; not where they were found."""
        who = weights_.identity(self.weights) if self.weights else self.hint.model
        asked = self.hint.model_dump(mode="json", include={"classes", "prompt", "max_tokens"})
        return {"version": self.version, "model": who, **asked}

    @property
    def is_remote(self) -> bool:
        """See the base class."""
        return self.weights is None

    def setup(self) -> None:
        """Load the model, or see that the endpoint answers.

        Raises:
            PluginError: it cannot be had.
        """
        if self.weights is None:
            endpoint = _Endpoint(self.hint)
            endpoint.check()
            self._ask = endpoint.ask
            return
        from mer_ray.pretrained.answers import Answerer  # noqa: PLC0415 - seconds, and an endpoint needs none of it

        model = Answerer(self.weights, self.hint.max_tokens, "cuda" if self.hint.gpus else "cpu")
        self._ask = partial(_in_parts, model.ask, self.hint.at_once)

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class."""
        assert self._ask is not None
        clip_ids, said = batch.column("clip_id").to_pylist(), batch.column("transcript").to_pylist()
        asked = [i for i, transcript in enumerate(said) if transcript]
        classes = ", ".join(self.hint.classes)
        questions = [self.hint.prompt.replace("{classes}", classes).replace("{text}", said[i]["text"]) for i in asked]
        answers = dict(zip(asked, self._ask(questions), strict=True))
        return self.rows_to_table([self._row(clip_id, answers.get(i)) for i, clip_id in enumerate(clip_ids)])

    def _row(self, clip_id: str, answer: str | ClipError | None) -> dict[str, Any]:
        if answer is None:
            return absent(clip_id)
        if isinstance(answer, ClipError):
            return failed(clip_id, answer)
        ranking = ranked(answer, self.hint.classes)
        return {"clip_id": clip_id, "present": True, "ranking": ranking, "answer": answer}


def _weights(given: dict[str, Any]) -> Weights:
    try:
        return Weights(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, Weights, "hint.weights"))) from error


def ranked(answer: str, classes: Sequence[str]) -> list[str]:
    """The classes in the order in which an answer names them first, whatever stands between; thoughts do not count.

    >>> ranked("<think>joy?</think> 1. **Sadness** 2) anger, not unhappy", ["joy", "happy", "anger", "sadness"])
    ['sadness', 'anger']
    """
    text = _THOUGHT.sub("", answer).casefold()
    found = {name: re.search(rf"{_edge(name)}{re.escape(name.casefold())}{_edge(name)}", text) for name in classes}
    return sorted((name for name, match in found.items() if match), key=lambda name: found[name].start())  # type: ignore[union-attr]


def _edge(name: str) -> str:
    """Where a name must begin and end: at the bounds of a word, in scripts that have them."""
    return r"\b" if name.isascii() else ""


def _in_parts(ask: Callable[[Sequence[str]], list[str]], size: int, questions: Sequence[str]) -> list[str | ClipError]:
    parts = [questions[start : start + size] for start in range(0, len(questions), size)]
    return [answer for part in parts for answer in isolate(ask, part)]


class _Endpoint:
    """A server that speaks OpenAI's chat completions; requests that it turns away for now are made again."""

    def __init__(self, hint: HintConfig) -> None:
        assert hint.endpoint is not None
        self.hint, self.address = hint, hint.endpoint.rstrip("/")
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_RETRIES, pool_maxsize=hint.at_once))
        if key := os.environ.get(hint.key):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def check(self) -> None:
        """See that it answers.

        Raises:
            PluginError: it does not.
        """
        try:
            answer = attempt(self._answer, "Say yes.")
            why = answer.detail if isinstance(answer, ClipError) else ""
        except MachineFault as error:
            why = str(error)
        if why:
            raise PluginError(
                f"hint.endpoint={self.address}: model {self.hint.model!r} does not answer: {why}. See that the server "
                f"runs, and that {self.hint.key} holds its key"
            )

    def ask(self, questions: Sequence[str]) -> list[str | ClipError]:
        """The answer to each question, several asked at once."""
        with ThreadPoolExecutor(self.hint.at_once) as pool:
            return list(pool.map(partial(attempt, self._answer), questions))

    def _answer(self, question: str) -> str:
        asked: dict[str, Any] = {
            "model": self.hint.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.hint.max_tokens,
            "temperature": 0,
        }
        limits = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        try:
            answer = self._session.post(f"{self.address}/chat/completions", json=asked, timeout=limits)
        except requests.RequestException as error:
            raise MachineFault(f"hint.endpoint={self.address} does not answer: {error}") from error
        if not answer.ok:
            told = f"{answer.status_code} {answer.reason}: {answer.text[:300]}"
            if answer.status_code in _DOWN:
                raise MachineFault(f"hint.endpoint={self.address} refuses: {told}")
            raise ClipError(Reason.FAILED, told)
        try:
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError) as error:
            raise ClipError(Reason.FAILED, f"no chat completion but {answer.text[:300]!r}") from error
