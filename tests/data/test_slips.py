import pytest

from mer_ray.data import slips
from mer_ray.data.sheet import Problems


def faults(**counts: int) -> list[str]:
    """What is found in labels of these counts, rows numbered in the order of the labels."""
    return faults_of([label for label, count in counts.items() for _ in range(count)])


def faults_of(labels: list[str | None]) -> list[str]:
    problems = Problems("clips.csv")
    slips.check(labels, [f"row {i}" for i in range(len(labels))], problems)
    return problems.found


@pytest.mark.parametrize(
    ("counts", "edits"),
    [
        ({"sad": 100, "sda": 1}, 1),
        ({"sad": 3, "sda": 2}, 1),
        ({"sad": 2, "sda": 1}, 1),
        ({"happy": 3, "happi": 1}, 1),
        ({"boredom": 150, "boredum": 3}, 1),
        ({"boredom": 1000, "boredum": 20}, 1),
        ({"boredom": 9, "boerdum": 1}, 2),
        ({"worried": 9, "wories": 1}, 2),
        ({"hoping": 9, "hopping!": 1}, 2),
        ({"sad": 9, "sa": 1}, 1),
        ({"sad": 9, "sad1": 1}, 1),
        ({"level 1": 9, "level1": 1}, 1),
    ],
)
def test_a_rare_class_an_edit_or_two_from_a_larger_one_is_a_slip(counts, edits):
    (like, size), (name, rare) = counts.items()
    (found,) = faults(**counts, fear=4)
    assert f"class {name!r} ({rare} clip(s)) is {edits} edit(s) from {like!r} ({size} clips)" in found
    assert found.startswith(", ".join(f"row {size + i}" for i in range(min(rare, 10))))


@pytest.mark.parametrize(
    "counts",
    [
        {"sad": 100, "hope": 1},
        {"sad": 100, "sda": 3},
        {"boredom": 149, "boredum": 3},
        {"boredom": 999, "boredum": 20},
        {"sad": 2, "sda": 2},
        {"sad": 1, "mad": 1, "bad": 1},
        {"happy": 9, "hopy": 1},
        {"unity": 9, "untidy": 2, "unit": 9},
        {"fearful": 9, "fear": 1},
        {"fearful": 9, "Fear": 9, "FEAR": 1},
        {"1": 100, "2": 1, "10": 1, "-1": 2, "0.5": 1},
        {"level 1": 100, "level 2": 1},
        {"A": 100, "B": 1},
        {"sa": 100, "su": 1, "a": 1},
        {"开心": 100, "伤心": 1},
        {"positive": 100, "negative": 1, "neutral": 1},
    ],
)
def test_a_true_class_is_none(counts):
    assert faults(**counts) == []


def test_two_edits_count_from_six_letters_of_the_larger_ones_name_on():
    assert faults(hopen=9, hopping=1) == []
    assert len(faults(hoping=9, happing=1)) == 1
    assert faults(happy=9, unhappy=1) == []
    assert len(faults(unhappy=9, happy=1)) == 1


def test_the_nearest_is_named_and_of_two_the_larger():
    (found,) = faults(mad=3, bad=5, sad=4, dad=1)
    assert "from 'bad'" in found
    (found,) = faults(worried=50, worries=3, worriess=1)
    assert "from 'worries'" in found


def test_spellings_of_one_meaning_count_together():
    assert "is 1 edit(s) from 'angry' (4 clips)" in faults_of(["anger", "Angry", "angry ", "anger", "angri"])[0]
    assert faults_of(["happy", "joy", "Happiness", "toy", "toy", "toy"]) == []
    assert faults_of(["Boredom", "boredom ", None, "BOREDUM"])[0].startswith("row 3: class 'boredum'")


def test_of_many_rows_ten_are_named():
    (found,) = faults(boredom=600, boredum=12)
    assert found.startswith("row 600, row 601, ")
    assert "row 609 and 2 others: class 'boredum' (12 clip(s))" in found
