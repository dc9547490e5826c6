import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mer_ray.data.storage import Store
from mer_ray.rounds import state
from mer_ray.rounds.split import Adoptions
from mer_ray.rounds.state import Rounds, open_rounds

FILES = {
    "model.safetensors": bytes(range(256)),
    "config.json": b'{"name": "all"}',
    "predictions.safetensors": b"p" * 99,
}
CLASSES = ("anger", "joy", "worry")


@pytest.fixture
def rounds(tmp_path):
    made, moved = open_rounds(Store(str(tmp_path)), "digest0")
    assert moved is None
    return made


def save(rounds, folder="00/all", digest="abc"):
    rounds.save_learner(folder, digest, FILES, {"seconds": 1.5})


def load(rounds, folder="00/all", digest="abc", names=("config.json", "predictions.safetensors")):
    return rounds.load_learner(folder, digest, names)


def tree(folder):
    """Every file beneath a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_learner_comes_back_as_it_was_saved(rounds, tmp_path):
    save(rounds)
    assert load(rounds) == {name: FILES[name] for name in ("config.json", "predictions.safetensors")}
    assert {path.name for path in (tmp_path / "rounds/00/all").iterdir()} == {*FILES, "metrics.json"}
    told = json.loads((tmp_path / "rounds/00/all/metrics.json").read_text())
    assert (told["seconds"], told["digest"], sorted(told["sha256"])) == (1.5, "abc", sorted(FILES))


def test_metrics_are_written_last(tmp_path):
    """Cut off after any write but the last, the learner is not there."""

    class Killed(Exception):
        pass

    class DyingStore(Store):
        left = 0

        def write(self, name, data):
            if not self.left:
                raise Killed
            self.left -= 1
            super().write(name, data)

    for left in range(len(FILES) + 2):
        store = DyingStore(str(tmp_path / str(left)))
        store.left = left
        if left <= len(FILES):
            with pytest.raises(Killed):
                save(Rounds(store))
            assert load(Rounds(store), names=()) is None
        else:
            save(Rounds(store))
            assert load(Rounds(store), names=()) == {}


def test_a_learner_of_another_digest_or_folder_is_not_there(rounds):
    save(rounds)
    assert load(rounds, digest="abd") is None
    assert load(rounds, folder="01/all") is None


def test_a_copied_learner_is_the_same_and_finished(rounds, tmp_path):
    save(rounds)
    rounds.copy_learner("00/all", "07/all")
    assert load(rounds, folder="07/all") == load(rounds)
    assert tree(tmp_path / "rounds/07/all") == tree(tmp_path / "rounds/00/all")


@pytest.mark.parametrize("name", [*FILES, "metrics.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "binary"])
def test_a_damaged_learner_is_not_there(rounds, tmp_path, name, damage):
    save(rounds)
    path = tmp_path / "rounds/00/all" / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        damaged = {"truncated": whole[:-3], "empty": b"", "longer": whole + b"x", "binary": b"\xff\xfe" + whole[2:]}
        path.write_bytes(damaged[damage])
    assert load(rounds) is None, "a file that is not asked for counts too"
    save(rounds)
    assert load(rounds) is not None


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_of_a_file_is_found(rounds, tmp_path, name):
    save(rounds)
    path = tmp_path / "rounds/00/all" / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert load(rounds, names=()) is None


def test_a_flipped_bit_of_metrics_gives_the_same_files_or_none(rounds, tmp_path):
    save(rounds)
    path = tmp_path / "rounds/00/all/metrics.json"
    whole = path.read_bytes()
    right = load(rounds)
    found = []
    for place in range(len(whole)):
        bit = random.Random(place).randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        found.append(load(rounds))
    assert all(files in (None, right) for files in found)
    assert sum(files is None for files in found) > 0.7 * len(found)


def test_the_same_experiment_continues(rounds, tmp_path):
    save(rounds)
    before = tree(tmp_path)
    again, moved = open_rounds(Store(str(tmp_path)), "digest0")
    assert moved is None
    assert tree(tmp_path) == before
    assert load(again) == load(rounds)


def test_another_experiments_rounds_are_kept_under_a_name_of_their_own(tmp_path):
    run_dir = Store(str(tmp_path))
    seen = []
    for place, digest in enumerate(["one", "two", "one", "two", "one"]):
        rounds, moved = open_rounds(run_dir, digest)
        assert (moved is None) == (place == 0)
        assert load(rounds) is None, "nothing of another experiment is mixed in"
        rounds.save_learner("00/all", "abc", {"config.json": str(place).encode()}, {})
        seen.append(moved)
    assert len(set(seen)) == len(seen)
    assert sorted(seen[1:]) == sorted(["rounds.one", "rounds.one+", "rounds.two", "rounds.two+"])
    kept = sorted(path.read_bytes() for path in tmp_path.glob("rounds*/00/all/config.json"))
    assert kept == [str(place).encode() for place in range(5)]
    assert json.loads((tmp_path / "rounds/experiment.json").read_text()) == {"digest": "one"}


@pytest.mark.parametrize("content", [b"", b'{"dig', b"[]", b"{}", b"\xff\xfe\x00", b"null"])
def test_rounds_whose_experiment_is_unreadable_are_kept_aside(rounds, tmp_path, content):
    save(rounds)
    (tmp_path / "rounds/experiment.json").write_bytes(content)
    before = tree(tmp_path / "rounds")
    again, moved = open_rounds(Store(str(tmp_path)), "digest0")
    assert moved == "rounds.damaged"
    assert tree(tmp_path / moved) == before
    assert load(again) is None
    assert open_rounds(Store(str(tmp_path)), "digest0")[1] is None


def test_rounds_without_an_experiment_are_kept_aside(rounds, tmp_path):
    save(rounds)
    (tmp_path / "rounds/experiment.json").unlink()
    before = tree(tmp_path / "rounds")
    _, moved = open_rounds(Store(str(tmp_path)), "digest0")
    assert moved == "rounds.unfinished"
    assert tree(tmp_path / moved) == before


def test_votes_have_a_row_for_each_clip_and_learner_that_votes(rounds, tmp_path):
    one = np.array([[0.5, 0.25, 0.25], [np.nan] * 3, [0.125, 0.75, 0.125]])
    other = np.array([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [np.nan] * 3])
    rounds.write_votes(3, ["a", "b", "c"], CLASSES, {"one": one, "other": other})
    table = pq.read_table(tmp_path / "rounds/03/votes.parquet")
    probability = {f"prob_{name}": pa.float64() for name in CLASSES}
    assert table.schema.equals(pa.schema({"clip_id": pa.string(), "learner": pa.string(), **probability}))
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", "one", 0.5, 0.25, 0.25),
        ("c", "one", 0.125, 0.75, 0.125),
        ("a", "other", 0.0, 0.0, 1.0),
        ("b", "other", 0.5, 0.5, 0.0),
    ]


@pytest.mark.parametrize("silent", ["one", "both", "no clip"])
def test_votes_of_learners_that_never_vote_keep_the_columns(rounds, tmp_path, silent):
    votes = {"one": np.full((2, 3), np.nan), "other": np.full((2, 3), np.nan if silent == "both" else 0.25)}
    ids = [] if silent == "no clip" else ["a", "b"]
    rounds.write_votes(0, ids, CLASSES, {name: vote[: len(ids)] for name, vote in votes.items()})
    table = pq.read_table(tmp_path / "rounds/00/votes.parquet")
    assert table.schema.types == [pa.string(), pa.string(), *[pa.float64()] * 3]
    assert table["learner"].to_pylist() == (["other", "other"] if silent == "one" else [])


def test_selected_says_which_fold_and_learner_adopted_what(rounds, tmp_path):
    adoptions = Adoptions(
        fold=np.array([0, 1]),
        clip=np.array([2, 0]),
        label=np.array([1, 2]),
        agreement=np.array([3, 4]),
        confidence=np.array([0.75, 0.5]),
        target=np.eye(3, dtype=np.float32)[[1, 2]],
        weight=np.array([1.0, 0.5], dtype=np.float32),
        learner=np.array([1, 0]),
        round=np.array([1, 1]),
    )
    rounds.write_selected(1, adoptions, ["a", "b", "c"], CLASSES, ["first", "second"])
    rounds.write_selected(2, Adoptions.none(3), ["a", "b", "c"], CLASSES, ["first", "second"])
    table = pq.read_table(tmp_path / "rounds/01/selected.parquet")
    assert table.to_pylist() == [
        {
            "clip_id": "c",
            "fold": 0,
            "label": "joy",
            "agreement": 3,
            "confidence": 0.75,
            "weight": 1.0,
            "learner": "second",
            "prob_anger": 0.0,
            "prob_joy": 1.0,
            "prob_worry": 0.0,
        },
        {
            "clip_id": "a",
            "fold": 1,
            "label": "worry",
            "agreement": 4,
            "confidence": 0.5,
            "weight": 0.5,
            "learner": "first",
            "prob_anger": 0.0,
            "prob_joy": 0.0,
            "prob_worry": 1.0,
        },
    ]
    assert pq.read_schema(tmp_path / "rounds/02/selected.parquet").equals(table.schema), "also when nothing is adopted"


def test_a_rounds_figures_lie_in_its_folder(rounds, tmp_path):
    rounds.write_metrics(12, {"oof_waf": 0.5, "reason": "é"})
    assert state.name_of(12) == "12"
    assert json.loads((tmp_path / "rounds/12/metrics.json").read_text()) == {"oof_waf": 0.5, "reason": "é"}
