"""An n-gram of words by interpolated Witten-Bell smoothing, and the ARPA file and lexicon that a beam search reads.

The probability of a word behind a history of which ``types`` different words were seen, ``total`` in all, is
``(count + types * p(word | shorter history)) / (total + types)``; behind no word at all, every word of the vocabulary
is equally likely (Chen and Goodman 1999, section 2.5). It needs no held-out text, and holds for a few sentences.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER = -99.0

Gram = tuple[str, ...]


class NGram:
    """A model of word sequences.

    Args:
        sentences: words, each sentence for itself.
        order: words that one depends on, itself among them.
        vocabulary: further words that may come, beside those of the sentences.

    Raises:
        ValueError: there is no sentence, or the order is below 1.
    """

    def __init__(self, sentences: Iterable[Sequence[str]], order: int = 2, vocabulary: Iterable[str] = ()) -> None:
        if order < 1:
            raise ValueError(f"order={order}: it must be at least 1")
        self.order = order
        self._after: dict[Gram, Counter[str]] = defaultdict(Counter)
        for sentence in sentences:
            padded = (BEGIN, *sentence, END)
            for place in range(1, len(padded)):
                for length in range(min(order - 1, place) + 1):
                    self._after[padded[place - length : place]][padded[place]] += 1
        if not self._after:
            raise ValueError("there is no sentence to learn from")
        self.words = tuple(sorted({*self._after[()], *vocabulary, END, UNKNOWN} - {BEGIN}))
        self._known = frozenset(self.words)

    def probability(self, word: str, history: Sequence[str] = ()) -> float:
        """Of a word behind others, the last of them nearest; a word that is not known is as likely as ``<unk>``."""
        known = word if word in self._known else UNKNOWN
        return self._probability(known, tuple(history)[-(self.order - 1) :] if self.order > 1 else ())

    def _probability(self, word: str, history: Gram) -> float:
        shorter = self._probability(word, history[1:]) if history else 1 / len(self.words)
        if history not in self._after:
            return shorter
        seen = self._after[history]
        return (seen[word] + len(seen) * shorter) / (seen.total() + len(seen))

    def arpa(self) -> str:
        """The model as an ARPA file: seen n-grams with their log10 probability and the weight of backing off.

        An unseen word behind a seen history has that history's weight times its probability behind the shorter one,
        which is just what Witten-Bell gives it.
        """
        grams = [self._grams(length) for length in range(1, self.order + 1)]
        lines = ["\\data\\", *(f"ngram {length}={len(own)}" for length, own in enumerate(grams, 1)), ""]
        for length, own in enumerate(grams, 1):
            lines += [f"\\{length}-grams:", *(self._line(gram) for gram in own), ""]
        return "\n".join([*lines, "\\end\\", ""])

    def _grams(self, length: int) -> list[Gram]:
        if length == 1:
            return [(BEGIN,), *((word,) for word in self.words)]
        return sorted(
            (*history, word) for history, seen in self._after.items() if len(history) == length - 1 for word in seen
        )

    def _line(self, gram: Gram) -> str:
        *history, word = gram
        logp = _NEVER if word == BEGIN else math.log10(self._probability(word, tuple(history)))
        told = f"{logp:.6f}\t{' '.join(gram)}"
        if len(gram) < self.order and gram in self._after:
            seen = self._after[gram]
            told += f"\t{math.log10(len(seen) / (seen.total() + len(seen))):.6f}"
        return told


def lexicon(words: Iterable[str], delimiter: str = "|") -> str:
    """A file that spells each word by its characters, a line ``word<tab>w o r d |``; marks ``<...>`` are left out."""
    kept = sorted({word for word in words if word and word not in {BEGIN, END, UNKNOWN}})
    return "".join(f"{word}\t{' '.join(word)} {delimiter}\n" for word in kept)
