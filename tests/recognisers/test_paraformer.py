"""Paraformer's recogniser: what it makes of tokens. What all must do is in the contract."""

import numpy as np
import pytest
import torch

from mer_ray.pretrained import architecture
from mer_ray.pretrained.paraformer import Told
from mer_ray.pretrained.weights import Weights
from mer_ray.recognisers import paraformer

TOKENS = ["<blank>", "<s>", "</s>", "你", "好", "he@@", "llo", "yes", "<unk>"]
YOU, GOOD, HE, LLO, YES = range(3, 8)


def sound(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=int(16_000 * seconds))).astype(np.float32)


class Saying(torch.nn.Module):
    """A network that says the same of every window, with the same certainty; each token ends three frames later."""

    def __init__(self, said, sure=0.9):
        super().__init__()
        self.said, self.sure = said, sure

    def forward(self, frames, own=None):
        places = max(1, len(self.said))
        p = torch.full((len(frames), places, len(TOKENS)), (1 - self.sure) / (len(TOKENS) - 1))
        for place, token in enumerate(self.said):
            p[:, place, token] = self.sure
        ends = 2 + 3 * torch.arange(places).expand(len(frames), -1)
        return Told(p.log(), torch.full((len(frames),), len(self.said)), ends)


def saying(said, **options):
    recogniser = paraformer.Recogniser(paraformer.tiny().config.model_copy(update=options))
    recogniser.load()
    recogniser._tokens, recogniser._model = TOKENS, Saying(said)
    return recogniser


def test_a_tiny_one_says_something():
    assert all(told.text for told in paraformer.tiny().transcribe([sound(1.0), sound(2.0, 1)]))


def test_tokens_are_written_without_the_special_ones_and_scored_by_their_mean():
    (told,) = saying([1, YOU, GOOD, HE, LLO, YES, 8, 2]).transcribe([sound(2.0)])
    assert (told.text, told.language) == ("你好 hello yes", "zh")
    assert told.score == pytest.approx(np.log(0.9), abs=1e-5)
    (segment,) = told.segments
    assert (segment.start, segment.end, segment.text) == (pytest.approx(5 * 0.06), pytest.approx(18 * 0.06), told.text)


@pytest.mark.parametrize("said", [[], [1, 2], [8]])
def test_without_a_word_nothing_is_said(said):
    (told,) = saying(said).transcribe([sound(1.0)])
    assert (told.text, told.score, told.language) == ("", None, None)


def test_a_window_tells_no_time_beyond_its_end_and_long_clips_have_several():
    told = saying([YOU] * 40, language="yue").transcribe([sound(0.5), sound(40.0)])
    assert told[0].segments[0].end == pytest.approx(0.5)
    assert [segment.start for segment in told[1].segments] == pytest.approx([0.12, 20.12])
    assert told[1].language == "yue"


def test_the_published_size():
    for name, published in paraformer.ARCHITECTURES.items():
        recogniser = paraformer.Recogniser(paraformer.Config(weights=Weights(source=f"random:{name}")))
        assert architecture.count_parameters(recogniser.empty) == pytest.approx(published.num_parameters, rel=0.02)
