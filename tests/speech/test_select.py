import pytest

from mer_ray.speech.select import choose, similarity


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("same words", "same words", 1.0),
        ("Same Words ", "same words", 1.0),
        ("", "", 1.0),
        ("", "word", 0.0),
        ("abc", "xyz", 0.0),
        ("abcd", "bcde", 0.75),  # common "bcd": 2 * 3 / 8
        ("我很高兴", "我高兴", 6 / 7),
    ],
)
def test_similarity_is_the_share_of_common_characters(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == pytest.approx(expected)
    assert similarity(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("template", "text_0", "text_1", "index"),
    [
        ("happy day", "happy day", "", 0),
        ("happy day", "", "happy day", 1),
        ("happy day", "happy day", "happy day", None),
        ("happy day", "", "", None),
        ("", "", "words", None),
        ("", "words", "", None),
        ("  ", "words", "", None),
        ("abcdefghij", "abcdefghij", "bcdefghij", None),  # 1 - 18/19 is less than 0.1
        ("abcdefghij", "abcdefgh", "abcdefg", None),  # 16/18 - 14/17 = 0.065
        ("abcdefghij", "abcdefgh", "abcde", 0),  # 16/18 - 10/15 = 0.222
    ],
)
def test_choice_by_hand(template: str, text_0: str, text_1: str, index: int | None) -> None:
    assert choose(template, text_0, text_1).index == index


def test_a_gap_of_just_the_threshold_keeps_the_original() -> None:
    # similarities 1.0 and 0.5: the gap is exactly 0.5
    assert choose("ab", "ab", "ac", threshold=0.5).index is None
    assert choose("ab", "ab", "ac", threshold=0.49).index == 0


def test_similarities_are_recorded() -> None:
    choice = choose("abcd", "abcd", "bcde")
    assert (choice.similarity_0, choice.similarity_1) == (1.0, 0.75)
