"""Why a clip got its label, told of finished runs: one from clips, one on ready features."""

import shutil

import in_process
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import InputError
from mer_ray.pipelines import why
from mer_ray.stages.base import ROW_FIELDS

COLUMNS = pa.schema([*ROW_FIELDS, ("text", pa.string()), ("crops", pa.binary())])


def ask(capsys, *arguments):
    """The exit code of ``jobs/why.py`` and what it printed."""
    code = in_process.run("why", *arguments)
    told = capsys.readouterr()
    return code, " ".join((told.out + told.err).split())


@pytest.fixture
def predictions(mined_vectors):
    return pq.read_table(mined_vectors / "run/predictions.parquet").to_pandas().set_index("clip_id")


def test_a_run_from_clips_tells_what_was_said_and_shows_the_face(mined_clips, tmp_path, capsys):
    truth = pq.read_table(mined_clips / "clips/truth/truth.parquet").to_pandas().set_index("clip_id")
    whole = truth[truth["broken"].isna() & (truth["split"] == "unlabeled")]
    given = pd.read_csv(mined_clips / "clips/manifest.csv").set_index("clip_id")["text"].dropna()
    clip = given.index.intersection(whole.index)[0]
    code, told = ask(capsys, f"run.dir={mined_clips}", f"clip={clip}", f"html={tmp_path}/why.html")
    assert code == 0, told
    assert given[clip] in told
    page = (tmp_path / "why.html").read_text()
    assert given[clip] in page
    assert page.count("data:image/jpeg;base64,") == 4
    code, _ = ask(capsys, f"run.dir={mined_clips}", f"clip={clip}", f"html={tmp_path}/why.html", "faces=false")
    assert code == 0
    assert "data:image" not in (tmp_path / "why.html").read_text()


def test_a_recognised_transcript_is_told(mined_clips, capsys):
    parts = mined_clips.glob("tables/transcript/*/[!_]*.parquet")
    heard = {row["clip_id"]: row["text"] for part in parts for row in pq.read_table(part).to_pylist()}
    manifest = pd.read_csv(mined_clips / "clips/manifest.csv", keep_default_na=False)
    blank = [clip for clip in manifest.loc[manifest["text"] == "", "clip_id"] if heard[clip]]
    code, told = ask(capsys, f"run.dir={mined_clips}", f"clip={blank[0]}")
    assert code == 0, told
    assert " ".join(heard[blank[0]].split()) in told


def test_of_the_parts_without_the_clip_only_ids_are_read(tmp_path):
    """Their heavy column is damaged: to read it would fail."""
    table = Table(Store(str(tmp_path)), "faces", COLUMNS, {})
    for number in range(4):
        ids = [f"c{number}{i}" for i in range(3)]
        crops = [bytes(range(256)) * 40 + name.encode() for name in ids]
        made = [{"clip_id": i, "present": True, "text": i, "crops": c} for i, c in zip(ids, crops, strict=True)]
        table.commit(pa.Table.from_pylist(made, schema=COLUMNS), ids, {})
    for part in tmp_path.glob("faces/*/[!_]*.parquet"):
        if "c21" not in pq.read_table(part, columns=["clip_id"])["clip_id"].to_pylist():
            damage(part, "crops")
            with pytest.raises((OSError, pa.ArrowException)):
                pq.read_table(part, columns=["crops"])
    assert why._cell(table, "c21", "crops") == bytes(range(256)) * 40 + b"c21"
    assert why._cell(table, "c21", "text") == "c21"
    assert why._cell(table, "c32", "text") == "c32"
    assert why._cell(table, "c99", "crops") is None


def damage(part, column):
    """Overwrite what a part holds of a column."""
    data, footer = bytearray(part.read_bytes()), pq.read_metadata(part)
    for group in range(footer.num_row_groups):
        chunks = (footer.row_group(group).column(i) for i in range(footer.num_columns))
        (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema == column]
        place = slice(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size)
        data[place] = b"\xff" * chunk.total_compressed_size
    part.write_bytes(data)


def test_a_table_without_parts_has_no_cell(tmp_path):
    assert why._cell(Table(Store(str(tmp_path)), "faces", COLUMNS, {}), "c0", "crops") is None


def test_why_tells_rounds_votes_modalities_and_neighbours_of_a_clip(mined_vectors, predictions, tmp_path, capsys):
    own, run_dir = predictions, mined_vectors / "run"
    adopted = own.index[own["round"].notna()][0]
    code, told = ask(capsys, f"run.dir={run_dir}", f"clip={adopted}", f"html={tmp_path}/out/why.html")
    assert code == 0, told
    label, (num_folds, _) = next(iter(where_learnt(run_dir, adopted).items()))
    assert f"{label} in {num_folds} fold" in told
    for part in (own.loc[adopted, "label"], "audio", "video", own.loc[adopted, "nearest"][0], "Round by round"):
        assert part in told, part
    page = (tmp_path / "out/why.html").read_text()
    assert adopted in page
    assert "Round by round" in page
    votes = pq.read_table(run_dir / "rounds/01/votes.parquet").to_pandas()
    said = votes[(votes["clip_id"] == adopted) & (votes["learner"] == "all")].iloc[0]
    story = why.gather(Store(str(run_dir)), adopted, with_faces=False)
    assert story.rounds[1].said["all"]["worry"] == pytest.approx(said["prob_worry"])
    assert story.clip.without["audio"] == pytest.approx(-own.loc[adopted, "without_audio"])


def where_learnt(run_dir, clip):
    """By label, how many of the 3 folds learnt the clip as that, and whether the last model did."""
    selected = pq.read_table(run_dir / "rounds/00/selected.parquet").to_pylist()
    found = {(row["label"], row["fold"]) for row in selected if row["clip_id"] == clip}
    labels = {label for label, _ in found}
    return {label: (sum((label, fold) in found for fold in range(3)), (label, 3) in found) for label in labels}


def test_the_last_model_is_told_beside_the_folds_and_is_none_of_them(mined_vectors, predictions, tmp_path):
    run_dir, words = mined_vectors / "run", {True: " and the last model", False: ""}
    by_both = []
    for clip in predictions.index[predictions["round"].notna()]:
        expected = where_learnt(run_dir, clip)
        told = why.gather(Store(str(run_dir)), clip, with_faces=False).rounds[0].learnt_as
        assert told.keys() == expected.keys()
        for label, (num_folds, last) in expected.items():
            if num_folds:
                assert told[label] == f"{num_folds} fold{'s' if num_folds > 1 else ''}{words[last]}"
        by_both += [(clip, label) for label, where in expected.items() if where == (3, True)]
    clip, label = by_both[0]
    shutil.copytree(run_dir, tmp_path / "run")
    for config in tmp_path.glob("run/rounds/*/*/config.json"):
        config.write_text(config.read_text().replace('"final": "all"', '"final": "folds"'))
    told = why.gather(Store(str(tmp_path / "run")), clip, with_faces=False).rounds[0].learnt_as
    assert told[label] == "4 folds", "of a run by fit.final=folds"


def test_why_names_the_nearest_clip_and_the_reason_of_a_lost_one(mined_vectors):
    store = Store(str(mined_vectors / "run"))
    with pytest.raises(InputError, match=r"'c5' is not in the run .*; did you mean 'c5\d'"):
        why.gather(store, "c5", with_faces=False)
    with pytest.raises(InputError, match="c50 has no label, nothing of it could be used: manifest: no_modality"):
        why.gather(store, "c50", with_faces=False)
    with pytest.raises(InputError, match="to a finished run"):
        why.gather(store / "nothing", "c51", with_faces=False)
    trained = why.gather(store, "c03", with_faces=False)
    assert trained.clip.given_label == "anger"
    assert all(not one.said for one in trained.rounds)
