from collections import Counter

from mer_ray.demo.words import EMOTION_WORDS, phones, vocabulary


def test_words_have_different_sounds_and_classes_share_some() -> None:
    assert len({phones(word) for word in vocabulary()}) == len(vocabulary())
    shared = Counter(word for words in EMOTION_WORDS.values() for word in set(words))
    assert 3 <= sum(count > 1 for count in shared.values()) <= 20
