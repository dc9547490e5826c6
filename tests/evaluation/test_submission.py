import csv
import io

import pyarrow as pa
import pytest

from mer_ray.data.manifest import Manifest
from mer_ray.errors import SubmissionError
from mer_ray.evaluation import submission
from mer_ray.types import MER2024, Clip, LabelSpace, Split


def clip(name, split, label=None, valence=None):
    return Clip(name, Split(split), text="t", label=label, valence=valence)


MANIFEST = Manifest(
    (
        clip("t1", "train", "sadness", 1.0),
        clip("t2", "train", "sadness", 2.0),
        clip("t3", "train", "anger"),
        clip("u1", "unlabeled"),
        clip("x1", "test", "neutral"),
        clip("u2", "unlabeled"),
        clip("u3", "unlabeled"),
    ),
    MER2024,
    "clips.csv",
)
LABELS = {"u3": "happiness", "u2": "neutral", "t1": "sadness", "x1": "worry", "t2": "sadness", "t3": "anger"}
QUARANTINED = {"u1": "no_streams"}


def table(labels=LABELS, **columns):
    return pa.table({"clip_id": list(labels), "label": list(labels.values()), **columns})


def rows(data: bytes):
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_every_clip_that_is_not_for_training_once_joined_by_name():
    made = submission.make(MANIFEST, table(), QUARANTINED)
    assert made.submission == b"name,discrete\nu1,sad\nx1,worried\nu2,neutral\nu3,happy\n"
    assert made.fallback == b"name,reason\nu1,no_streams\n"
    assert made.num_fallback == 1


def test_a_stand_in_is_named_where_nothing_is_trained_on():
    assert submission.make(
        MANIFEST, table(), QUARANTINED, ["u1"], stand_in=submission.StandIn("worry", 0.0)
    ).submission.endswith(b"u1,worried\n")


def test_the_candidates_give_the_order_and_the_choice(tmp_path):
    (tmp_path / "list.csv").write_text("number,name\n1,u3\n2,t3\n3,u1\n")
    candidates = submission.read_candidates(str(tmp_path / "list.csv"))
    made = submission.make(MANIFEST, table(), QUARANTINED, candidates)
    assert rows(made.submission)[1:] == [["u3", "happy"], ["t3", "angry"], ["u1", "sad"]]


def test_a_prediction_goes_before_the_quarantine():
    made = submission.make(MANIFEST, table({**LABELS, "u1": "anger"}), {**QUARANTINED, "u2": "unreadable"})
    assert rows(made.submission)[1] == ["u1", "angry"]
    assert rows(made.submission)[3] == ["u2", "neutral"]
    assert made.num_fallback == 0


def test_classes_of_ones_own_are_written_as_they_are():
    space = LabelSpace(("bored", "Happy"))
    own = Manifest((clip("a", "train", "Happy"), clip("b", "train", "bored"), clip("c", "test")), space, "x")
    made = submission.make(own, table({"c": "bored"}), {})
    assert made.submission == b"name,discrete\nc,bored\n"
    assert submission.commonest_class(own) == "bored", "of two equally common the first"


@pytest.mark.parametrize(
    ("labels", "quarantined", "candidates", "reason"),
    [
        (LABELS, {}, None, r"1 clip\(s\) have neither a prediction nor a reason: 'u1'"),
        (LABELS, QUARANTINED, ["u2", "u3", "u2"], "come twice in the candidates' list: 'u2'"),
        (LABELS, QUARANTINED, ["u2", "zz"], "of the candidates' list are not in the manifest: 'zz'"),
        ({**LABELS, "zz": "anger"}, QUARANTINED, None, "predicted and not in the manifest: 'zz'"),
        ({**LABELS, "u2": None}, QUARANTINED, None, "a prediction without a label: 'u2'"),
    ],
)
def test_what_does_not_match_one_to_one_is_refused(labels, quarantined, candidates, reason):
    with pytest.raises(SubmissionError, match=reason):
        submission.make(MANIFEST, table(labels), quarantined, candidates)


def test_a_clip_predicted_twice_is_refused():
    twice = pa.concat_tables([table(), table({"u2": "anger"})])
    with pytest.raises(SubmissionError, match="are predicted twice: 'u2'"):
        submission.make(MANIFEST, twice, QUARANTINED)


def test_mer2023_writes_the_valence():
    made = submission.make(MANIFEST, table(valence=[0.25, -1.0, 0.0, 3.0, 0.0, 0.0]), QUARANTINED, form="mer2023")
    assert rows(made.submission) == [
        ["name", "discrete", "valence"],
        ["u1", "sad", "1.5"],
        ["x1", "worried", "3"],
        ["u2", "neutral", "-1"],
        ["u3", "happy", "0.25"],
    ]


def test_a_stand_in_brings_its_own_valence():
    stand_in = submission.StandIn("worry", -0.5)
    predicted = table(valence=[0.25] * 6)
    made = submission.make(MANIFEST, predicted, QUARANTINED, ["u1"], form="mer2023", stand_in=stand_in)
    assert rows(made.submission)[1] == ["u1", "worried", "-0.5"]


def test_a_prediction_that_no_learner_made_is_listed_and_kept():
    made = submission.make(MANIFEST, table(), QUARANTINED, unvoted={"u2", "t1"})
    assert rows(made.submission)[3] == ["u2", "neutral"]
    assert made.fallback == b"name,reason\nu1,no_streams\nu2,no learner could vote\n", "t1 is no candidate"
    assert made.num_fallback == 2


@pytest.mark.parametrize("columns", [{}, {"valence": [0.25, None, 0.0, 3.0, 0.0, 0.0]}])
def test_mer2023_without_a_valence_is_refused(columns):
    with pytest.raises(SubmissionError, match="mer2023 needs a valence"):
        submission.make(MANIFEST, table(**columns), QUARANTINED, form="mer2023")


@pytest.mark.parametrize(
    ("text", "reason"), [("id\na\n", "no column name"), ("name,x\n,1\n", "row 2: name is blank"), ("", "is empty")]
)
def test_a_candidates_list_that_cannot_be_used(tmp_path, text, reason):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(SubmissionError, match=reason):
        submission.read_candidates(str(tmp_path / "list.csv"))
