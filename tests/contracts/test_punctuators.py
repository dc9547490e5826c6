"""What every punctuator must do, over every file of the kind."""

import pickle
import re

import pytest

from mer_ray import registry
from mer_ray.punctuators.base import Punctuator

TEXTS = [
    "well i did not expect that",
    "",
    "no",
    "你好 吗",
    "already said, is it?",
    " ".join(f"word{i}" for i in range(300)),
]


@pytest.fixture(params=registry.names("punctuators"), scope="module")
def punctuator(request):
    module = registry.find("punctuators", request.param)
    built = module.tiny() if hasattr(module, "tiny") else registry.build("punctuators", request.param, {})
    assert isinstance(built, Punctuator)
    built.load()
    return built


def bare(text):
    return re.sub(r"[^\w ]", "", text).lower().split()


def test_words_and_their_order_stay(punctuator):
    made = punctuator.punctuate(TEXTS)
    assert [bare(text) for text in made] == [bare(text) for text in TEXTS]
    assert made[1] == ""


def test_a_text_does_not_depend_on_those_beside_it(punctuator):
    assert [punctuator.punctuate([text])[0] for text in TEXTS] == punctuator.punctuate(TEXTS)


def test_survives_pickling(punctuator):
    again = pickle.loads(pickle.dumps(punctuator))
    assert again.punctuate(TEXTS) == punctuator.punctuate(TEXTS)


def test_no_text_gives_none(punctuator):
    assert punctuator.punctuate([]) == []
