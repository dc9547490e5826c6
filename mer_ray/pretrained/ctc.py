"""From a CTC model's log-probabilities to words: greedily or by beam search, then aligned to the frames.

Shapes: T frames, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import extras

DELIMITER = "|"


@dataclass(frozen=True)
class Vocabulary:
    """What the columns of a CTC model's output stand for.

    Attributes:
        tokens: by column.
        blank: the column of no token.
        silent: columns that are never written, the blank among them: unknown, start, end.
        delimiter: the column between words; None where the tokens are not parts of words, as Chinese characters.
    """

    tokens: tuple[str, ...]
    blank: int
    silent: frozenset[int]
    delimiter: int | None

    @classmethod
    def of(cls, tokenizer: Any, blank: int) -> Vocabulary:
        """That of a tokenizer of transformers.

        Raises:
            ConfigError: its numbers are not those of columns; a tokenizer of several languages, for instance.
        """
        numbers: dict[str, Any] = tokenizer.get_vocab()
        if sorted(map(str, numbers.values())) != sorted(map(str, range(len(numbers)))):
            raise ConfigError("vocab.json: it must number its tokens from 0; keep one language of several")
        between = getattr(tokenizer, "word_delimiter_token", DELIMITER)
        silent = {numbers[name] for name in tokenizer.all_special_tokens if name in numbers and name != between}
        return cls(
            tuple(sorted(numbers, key=numbers.__getitem__)), blank, frozenset({*silent, blank}), numbers.get(between)
        )

    def words(self, columns: list[int]) -> list[list[int]]:
        """Tokens cut at the delimiters; none is empty."""
        kept = [column for column in columns if column not in self.silent]
        return [list(part) for inside, part in groupby(kept, lambda column: column != self.delimiter) if inside]

    def spell(self, word: list[int]) -> str:
        """The word of some tokens."""
        return "".join(self.tokens[column] for column in word)


@dataclass(frozen=True)
class Words:
    """What was found in a clip.

    Attributes:
        words: in their order.
        spans: of each, its first frame and the one behind its last; empty where nothing could be aligned.
        score: mean over the tokens of the mean log-probability in a token's frames; None where there are none.
    """

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = ()
    score: float | None = None


class Greedy:
    """The likeliest token of each frame."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def decode(self, logp_TV: Tensor) -> Words:
        """Float32 (T, V) log-probabilities, on the CPU, to words."""
        path = torch.unique_consecutive(logp_TV.argmax(dim=1)).tolist()
        return self.aligned(logp_TV, [(self.vocabulary.spell(word), word) for word in self.vocabulary.words(path)])

    def aligned(self, logp_TV: Tensor, words: list[tuple[str, list[int]]]) -> Words:
        """Where in the frames words lie that were found in them, and how likely they are there."""
        names = tuple(name for name, _ in words)
        target, owner = self._target([tokens for _, tokens in words])
        repeats = sum(a == b for a, b in pairwise(target))
        if not target or len(target) + repeats > len(logp_TV):
            return Words(names)
        path, scores = forced_align(
            logp_TV[None], torch.tensor([target], dtype=torch.int32), blank=self.vocabulary.blank
        )
        spans = merge_tokens(path[0], scores[0], blank=self.vocabulary.blank)
        own = [[span for span, word in zip(spans, owner, strict=True) if word == i] for i in range(len(words))]
        score = sum(span.score for span in spans) / len(spans)
        return Words(names, tuple((inside[0].start, inside[-1].end) for inside in own), min(float(score), 0.0))

    def _target(self, words: list[list[int]]) -> tuple[list[int], list[int]]:
        """All tokens with delimiters between the words, and the word of each; a delimiter's is -1."""
        target: list[int] = []
        owner: list[int] = []
        for i, tokens in enumerate(words):
            if i and self.vocabulary.delimiter is not None:
                target.append(self.vocabulary.delimiter)
                owner.append(-1)
            target += tokens
            owner += [i] * len(tokens)
        return target, owner


@dataclass(frozen=True)
class Search:
    """How a beam is searched.

    Attributes:
        lexicon: file of the words that there are, each line a word and its tokens; None for any sequence of tokens.
        language_model: ARPA file of words.
        size: hypotheses that are kept.
        threshold: one this much worse than the best, in log-probability, is dropped.
        language_weight: of the language model's log10 probability beside the natural logarithms of the sounds.
        word_score: added for each word.
    """

    lexicon: Path | None
    language_model: Path | None
    size: int
    threshold: float
    language_weight: float
    word_score: float


class Beam(Greedy):
    """Beam search of flashlight-text, with a lexicon and an n-gram by its KenLM (torchaudio's ``ctc_decoder``)."""

    PACKAGE: ClassVar[str] = "flashlight-text"

    def __init__(self, vocabulary: Vocabulary, search: Search) -> None:
        super().__init__(vocabulary)
        extras.version(self.PACKAGE)
        self.search = search

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"_decoder", "_spelling"}}

    def decode(self, logp_TV: Tensor) -> Words:
        """See ``Greedy``."""
        best = self._decoder(logp_TV[None].contiguous())[0]
        if not best:
            return Words(())
        if self.search.lexicon is None:
            words = self.vocabulary.words(best[0].tokens.tolist())
            return self.aligned(logp_TV, [(self.vocabulary.spell(word), word) for word in words])
        return self.aligned(logp_TV, [(word, self._spelling[word]) for word in best[0].words])

    @cached_property
    def _decoder(self) -> Any:
        try:
            from torchaudio.models.decoder import ctc_decoder  # noqa: PLC0415 - its library comes with an extra
        except ImportError as error:
            raise PluginError(f"{self.PACKAGE} cannot be loaded ({error}); pip install 'mer_ray[speech]'") from error

        tokens, search = self.vocabulary.tokens, self.search
        delimiter = self.vocabulary.blank if self.vocabulary.delimiter is None else self.vocabulary.delimiter
        try:
            return ctc_decoder(
                lexicon=None if search.lexicon is None else str(search.lexicon),
                tokens=list(tokens),
                lm=None if search.language_model is None else str(search.language_model),
                beam_size=search.size,
                beam_threshold=search.threshold,
                lm_weight=search.language_weight if search.language_model else 0.0,
                word_score=search.word_score,
                blank_token=tokens[self.vocabulary.blank],
                sil_token=tokens[delimiter],
                unk_word="<unk>",
            )
        except (RuntimeError, ValueError, IndexError) as error:
            raise PluginError(f"lexicon {search.lexicon}, language model {search.language_model}: {error}") from error

    @cached_property
    def _spelling(self) -> dict[str, list[int]]:
        """The tokens of each word by its first spelling, without the delimiter behind it."""
        assert self.search.lexicon is not None
        column = {token: i for i, token in enumerate(self.vocabulary.tokens)}
        found: dict[str, list[int]] = {}
        for line in self.search.lexicon.read_text(encoding="utf-8").splitlines():
            word, *tokens = line.split()
            own = [column[token] for token in tokens if token in column]
            found.setdefault(word, [token for token in own if token != self.vocabulary.delimiter])
        return found
