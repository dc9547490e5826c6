import itertools
import math
from pathlib import Path

import pytest
import torch

from mer_ray.pretrained.ctc import Beam, Search, Vocabulary
from mer_ray.recognisers import ctc
from mer_ray.speech.errors import word_error_rate
from mer_ray.speech.ngram import BEGIN, END, UNKNOWN, NGram, lexicon

SAID = [text.split() for text in ("a b a", "a b c", "b a", "c", "a b")]


def read(text):
    """The grams of an ARPA file: log10 probability and weight of backing off."""
    found = {}
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            found[tuple(parts[1].split())] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return found


def from_file(grams, word, history):
    """The probability by the rules of the format, with nothing of the model that wrote it."""
    if (*history, word) in grams:
        return 10 ** grams[(*history, word)][0]
    weight = grams[history][1] if history in grams else 0.0
    return 10**weight * from_file(grams, word, history[1:])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_behind_every_history_the_probabilities_sum_to_one(order):
    model = NGram(SAID, order, vocabulary=["d"])
    assert set(model.words) == {"a", "b", "c", "d", END, UNKNOWN}
    for length in range(order):
        for history in itertools.product(["a", "b", "c", "d", BEGIN], repeat=length):
            assert sum(model.probability(word, history) for word in model.words) == pytest.approx(1)


def test_it_is_witten_and_bells_by_hand():
    model = NGram(SAID, 2)
    counts = {"a": 5, "b": 4, "c": 2, END: 5}
    of_b = (counts["b"] + 4 * (1 / 5)) / (16 + 4)
    assert model.probability("b") == pytest.approx(of_b)
    assert model.probability("b", ["a"]) == pytest.approx((3 + 2 * of_b) / (5 + 2))
    assert model.probability("never heard") == model.probability(UNKNOWN) > 0


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_file_says_what_the_model_says(order):
    model = NGram(SAID, order, vocabulary=["d"])
    text = model.arpa()
    grams = read(text)
    for length, told in enumerate((line for line in text.splitlines() if line.startswith("ngram ")), 1):
        assert told == f"ngram {length}={sum(len(gram) == length for gram in grams)}"
    for length in range(order):
        for history in itertools.product(["a", "b", "c", "d", BEGIN], repeat=length):
            for word in model.words:
                assert from_file(grams, word, history) == pytest.approx(model.probability(word, history), rel=1e-4)


def test_a_likelier_sentence_of_the_text_is_likelier():
    model = NGram(SAID, 3)

    def logp(words):
        padded = [BEGIN, *words, END]
        return sum(math.log(model.probability(word, padded[:i])) for i, word in enumerate(padded) if i)

    assert logp(["a", "b"]) > logp(["b", "b"])


def test_no_text_and_no_order_are_refused():
    with pytest.raises(ValueError, match="no sentence"):
        NGram([])
    with pytest.raises(ValueError, match="order=0"):
        NGram(SAID, 0)


def test_the_beam_reads_both_files_and_follows_them(tmp_path: Path):
    """Frames that say nothing between two words leave the choice to what was said before."""
    said = [["ab", "ba"]] * 8 + [["bb", "ab"]] * 3
    (tmp_path / "words.arpa").write_text(NGram(said, 2).arpa())
    (tmp_path / "lexicon.txt").write_text(lexicon({"ab", "ba", "bb", UNKNOWN}))
    vocabulary = Vocabulary.of(ctc.tokenizer(["<pad>", "<unk>", "|", "a", "b"]), 0)
    p = torch.full((6, 5), 0.01)
    for t, letters in enumerate(["a", "b", "|", "ab", "ab", "|"]):
        p[t, ["-", "?", "|", "a", "b"].index(letters[0])] = 0.5
        p[t, ["-", "?", "|", "a", "b"].index(letters[-1])] = 0.5
    logp = (p / p.sum(dim=1, keepdim=True)).log()
    beam = Beam(vocabulary, Search(tmp_path / "lexicon.txt", tmp_path / "words.arpa", 20, 50.0, 1.0, 0.0))
    assert beam.decode(logp).words == ("ab", "ba")


def test_a_lexicon_spells_each_word_once():
    assert lexicon(["ba", "a", "ba", END]) == "a\ta |\nba\tb a |\n"


def test_errors_are_counted_per_word_said():
    assert word_error_rate(["a b c", "d"], ["a x c", "d e"]) == 0.5
    assert word_error_rate(["a b"], [""]) == 1.0
    assert word_error_rate(["a"], ["a b c"]) == 2.0
    with pytest.raises(ValueError, match="no word"):
        word_error_rate([""], ["a"])
