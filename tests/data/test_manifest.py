import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mer_ray.data import manifest
from mer_ray.errors import ConfigError, ManifestError
from mer_ray.types import Split

GOOD = [
    ("a", "a.mp4", "Hello, you", "happy", "0.5", "", "s1"),
    ("b", "b.mp4", "", "sad", "", "train", "s2"),
    ("c", "gone.mp4", "more", "", "", "", ""),
    ("d", "", "only text", "neutral", "", "test", ""),
    ("e", "", "no label", "", "", "test", ""),
]
COLUMNS = ["clip_id", "video", "text", "label", "valence", "split", "speaker"]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"media")
    return tmp_path


def write(folder: Path, rows, columns=COLUMNS, name="clips.csv") -> str:
    path = folder / name
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return str(path)


def refusal(uri, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest.read(uri, **options)
    return str(caught.value)


def with_row(folder, **cells) -> str:
    """A good manifest whose last row is one made of these cells, in row 7 of the file."""
    row = {"clip_id": "z", **cells}
    columns = list(dict.fromkeys([*COLUMNS, *cells]))
    rows = [dict(zip(COLUMNS, good, strict=True)) for good in GOOD]
    return write(folder, [[r.get(c, "") for c in columns] for r in [*rows, row]], columns)


def test_a_manifest_becomes_clips_in_its_order(folder):
    read = manifest.read(write(folder, GOOD))
    assert [c.clip_id for c in read.clips] == ["a", "b", "c", "d", "e"]
    assert [c.split for c in read.clips] == [Split.TRAIN, Split.TRAIN, Split.UNLABELED, Split.TEST, Split.TEST]
    assert [c.label for c in read.clips] == ["happiness", "sadness", None, "neutral", None]
    assert read.label_space.names == ("neutral", "happiness", "sadness")
    first, _, third, fourth, _ = read.clips
    assert first.video == str(folder / "a.mp4")
    assert (first.text, first.valence, first.speaker) == ("Hello, you", 0.5, "s1")
    assert third.video == str(folder / "gone.mp4"), "one missing file is for quarantine, not for refusal"
    assert fourth.video is None
    assert fourth.speaker is None


def test_clips_without_labels_are_read_when_nothing_is_to_be_learnt(folder):
    path = write(folder, [("a", "x", "", "train"), ("b", "y", "happy", "")], ["clip_id", "text", "label", "split"])
    with pytest.raises(ManifestError, match="split is train and there is no label"):
        manifest.read(path)
    read = manifest.read(path, require_labels=False)
    assert [(c.split, c.label) for c in read.clips] == [(Split.UNLABELED, None), (Split.TRAIN, "happiness")]
    bare = write(folder, [("a", "x"), ("b", "y")], ["clip_id", "text"], "bare.csv")
    assert manifest.read(bare, require_labels=False).label_space.names == ()
    with pytest.raises(ManifestError, match="no labelled clip"):
        manifest.read(bare)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_with_and_without_byte_order_mark(folder, encoding):
    path = folder / "clips.csv"
    path.write_text("clip_id,video,text,label\na,a.mp4,你好,happy\nb,b.mp4,é,sad\n", encoding=encoding)
    assert [c.text for c in manifest.read(str(path)).clips] == ["你好", "é"]


def test_parquet_gives_the_same_clips_as_csv(folder):
    csv = manifest.read(write(folder, GOOD))
    frame = pd.DataFrame(GOOD, columns=COLUMNS).replace("", None)
    frame["valence"] = frame["valence"].astype(float)
    frame["speaker"] = frame["speaker"].astype("category")
    frame.to_parquet(folder / "clips.parquet")
    assert manifest.read(str(folder / "clips.parquet")).clips == csv.clips


def test_parquet_integer_ids_and_ignored_nested_column(folder):
    table = pa.table({"clip_id": [1, 2], "text": ["x", "y"], "label": ["p", "q"], "extra": [[1], [2]]})
    pq.write_table(table, folder / "m.parquet")
    assert [c.clip_id for c in manifest.read(str(folder / "m.parquet")).clips] == ["1", "2"]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"clip_id": "a"}, "duplicate clip_id 'a', also in row 2"),
        ({"clip_id": ""}, "clip_id is blank"),
        ({"clip_id": "x/y"}, "holds a path"),
        ({"clip_id": "..\\y"}, "starts with a dot"),
        ({"clip_id": "x\\y"}, "holds a path"),
        ({"clip_id": ".hidden"}, "starts with a dot"),
        ({"clip_id": "a b"}, "holds other characters"),
        ({"clip_id": "é"}, "holds other characters"),
        ({"clip_id": "x\n"}, "holds other characters"),
        ({"clip_id": "x\0y"}, "holds a NUL byte"),
        ({"clip_id": "x" * 201}, r"too long \(201 characters"),
        ({"split": "tset"}, "split 'tset' is none of train, unlabeled, test; did you mean 'test'"),
        ({"split": "train"}, "split is train and there is no label"),
        ({"label": "NaN"}, "looks like a missing value"),
        ({"valence": "high"}, "valence 'high' is not a finite number"),
        ({"valence": "inf"}, "valence 'inf' is not a finite number"),
        ({"video": "../a.mp4"}, r"video goes up with '\.\.'"),
        ({"video": "x\0.mp4"}, "video holds a NUL byte"),
        ({"audio": "http://host/a.wav?token=SECRET"}, "audio is of the scheme 'http:'"),
        ({"audio": "concat:a.wav|b.wav"}, "audio is of the scheme 'concat:'"),
        ({"audio": "file:///etc/passwd"}, "audio is of the scheme 'file:'"),
        ({"video": "/etc/passwd"}, "video lies outside the media root"),
        ({"video": "s3://bucket/a.mp4"}, "video lies outside the media root"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_reason(folder, cells, reason):
    message = refusal(with_row(folder, **cells))
    assert re.search(rf"row 7: .*{reason}", message), message
    assert "1 fault" in message
    assert "SECRET" not in message


def test_an_unknown_label_names_the_nearest(folder):
    message = refusal(with_row(folder, label="hapy"), labels="mer2024")
    assert "row 7: unknown label 'hapy'; did you mean 'happy'?" in message
    message = refusal(with_row(folder, label="zzz"), labels=["happy", "sad", "neutral"])
    assert "unknown label 'zzz'; known: happy, sad, neutral" in message


def test_all_faults_are_listed_and_a_flood_is_counted(folder):
    rows = [(f"x/{i}", "", "t", "happy", "", "", "") for i in range(50)]
    message = refusal(write(folder, [*GOOD, *rows]))
    assert "50 fault(s)" in message
    assert "row 7:" in message
    assert "row 26:" in message
    assert "row 27:" not in message
    assert "and 30 more" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("clip_id,label\n", "has a header and no rows"),
        ("name,label\na,happy\n", r"no column clip_id \(it has: name, label\)"),
        ("clipid,label\na,happy\n", "column 'clipid' is not one that is read; did you mean 'clip_id'"),
        ("clip_id;label\na;happy\n", "separated by ';'"),
        ("clip_id,label,label\na,happy,sad\n", "column 'label' comes twice"),
        ("clip_id,text,label\na,Hi, you,happy\n", "row 2: 4 cells, the header has 3"),
        ("clip_id,text,label\na,x,happy\nb,y\n", "row 3: 2 cells, the header has 3"),
        ('clip_id,text,label\na,"say "hi" now",happy\n', "row 2: .* a quote inside a quoted cell is written twice"),
        ('clip_id,text,label\na,"never closed,happy\nb,y,sad\n', "row 2: "),
        ("clip_id,text,label\na,x,\nb,y,\n", "no labelled clip"),
        ("clip_id,text,label,split\na,x,happy,test\nb,y,sad,test\n", "no labelled clip"),
        ("clip_id,text,label\na,x,happy\nb,y,joy\n", "one class only: every label is 'happiness'"),
    ],
)
def test_a_bad_file_is_refused(folder, text, reason):
    path = folder / "clips.csv"
    path.write_text(text)
    message = refusal(str(path))
    assert re.search(reason, message), message
    assert str(path) in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"clip_id,text,label\na,x,happy\nb,\xc4\xe3,sad\n", "bad encoding: row 3"),
        (b'clip_id,text,label\na,"two\nlines",happy\n' + b"b,\xff\xfe,sad\n", "bad encoding: row 3"),
        (b"\xef\xbb\xbfclip_id,text,label\na,x,happy\nb,\xc4\xe3,sad\n", "bad encoding: row 3"),
        (b"\xef\xbb\xbfclip_id,text\na,\xc2\x80\xc2\x80\xc2\x00\x80\n", "bad encoding: row 2"),
        ("clip_id,text\na,x\n".encode("utf-16"), "is UTF-16"),
        (b"PK\x03\x04rest", "is an Excel workbook"),
        (b"\x1f\x8brest", "is compressed"),
        (b"PAR1 and nothing more", "is truncated or is not Parquet"),
    ],
)
def test_bytes_that_are_no_manifest(folder, data, reason):
    path = folder / "clips.csv"
    path.write_bytes(data)
    assert reason in refusal(str(path))


def test_parquet_with_bad_encoding_names_the_row(folder):
    text = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    table = pa.table({"clip_id": ["a", "b"], "text": text, "label": ["happy", "sad"]})
    pq.write_table(table, folder / "m.parquet")
    assert "row 2: bad encoding: text is not UTF-8" in refusal(str(folder / "m.parquet"))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([0, 2**31 - 1], pa.date32()), "column 'when' of date32"),
        (pa.array([0, 1], pa.timestamp("us", "nowhere")), "column 'when' of timestamp"),
    ],
)
def test_parquet_with_values_that_python_lacks_names_the_column(folder, column, reason):
    pq.write_table(pa.table({"clip_id": ["a", "b"], "label": ["happy", "sad"], "when": column}), folder / "m.parquet")
    message = refusal(str(folder / "m.parquet"))
    assert reason in message
    assert "save it as text" in message


def test_parquet_with_a_column_twice_names_it(folder):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["clip_id", "text", "text"])
    pq.write_table(table, folder / "m.parquet")
    assert "column 'text' comes twice" in refusal(str(folder / "m.parquet"))


@pytest.mark.parametrize("uri", ["nowhere.csv", "http://host/clips.csv", "."])
def test_a_manifest_that_cannot_be_read(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    assert re.search("does not exist|scheme|cannot be read", refusal(uri))


def test_none_of_the_media_exist(folder):
    rows = [(i, f"{i}.avi", "t", label, "", "", "") for i, label in (("a", "happy"), ("b", "sad"))]
    path = write(folder, rows)
    message = refusal(path)
    assert "none of the 2 media files exist" in message
    assert "data.media_root" in message
    read = manifest.read(path, require_media=False)
    assert [c.video for c in read.clips] == [None, None]
    assert any("none of the 2 media files exist" in warning for warning in read.warnings)


def test_media_root_elsewhere(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    path = write(other, GOOD)
    assert "none of the 3 media files exist" in refusal(path)
    assert manifest.read(path, media_root=str(folder)).clips[0].video == str(folder / "a.mp4")


def test_a_label_of_an_unlabeled_clip_is_kept_out(folder):
    read = manifest.read(with_row(folder, label="happy", split="unlabeled"))
    assert read.clips[-1].split is Split.UNLABELED
    assert read.clips[-1].label is None
    assert any("1 clip(s) of split unlabeled have a label" in warning for warning in read.warnings)


def test_unknown_columns_are_ignored_and_near_misses_pointed_out(folder):
    read = manifest.read(
        write(folder, [("a", "x", "happy", 1), ("b", "y", "sad", 2)], ["clip_id", "vidoe", "label", "age"])
    )
    assert read.clips[0].video is None
    assert len(read.warnings) == 1
    assert "column 'vidoe'" in read.warnings[0]
    assert "'video'" in read.warnings[0]


def test_spellings_of_one_meaning_are_one_class(folder):
    labels = ["Fear", "fearful", "boredom", "Boredom "]
    read = manifest.read(write(folder, [(f"c{i}", "t", x) for i, x in enumerate(labels)], ["clip_id", "text", "label"]))
    assert len(read.label_space.names) == 2
    assert len({c.label for c in read.clips}) == 2


def labelled(folder, labels, **columns) -> str:
    frame = pd.DataFrame({"clip_id": [f"c{i}" for i in range(len(labels))], "text": "t", "label": labels, **columns})
    frame.to_csv(folder / "clips.csv", index=False)
    return str(folder / "clips.csv")


def test_a_slip_that_makes_a_class_of_its_own_is_refused(folder):
    path = labelled(folder, ["hope", *["boredom"] * 3, "boredum"])
    message = refusal(path)
    assert "1 fault(s)" in message
    assert "row 6: class 'boredum' (1 clip(s)) is 1 edit(s) from 'boredom' (3 clips)" in message
    assert "labels=[boredum,boredom,...]" in message
    assert "boredum" in refusal(path, require_labels=False)
    admitted = manifest.read(path, labels=["boredom", "boredum", "hope"])
    assert [c.label for c in admitted.clips][-2:] == ["boredom", "boredum"]
    message = refusal(labelled(folder, ["sad", "sad", "sda", "happy"]), labels="mer2024")
    assert "row 4: unknown label 'sda'; did you mean 'sad'?" in message


def test_a_slip_among_test_clips_is_refused_and_one_of_no_use_is_not(folder):
    labels, splits = ["sad", "sad", "happy", "sda"], ["train", "train", "train"]
    assert "row 5: class 'sda'" in refusal(labelled(folder, labels, split=[*splits, "test"]))
    read = manifest.read(labelled(folder, labels, split=[*splits, "unlabeled"]))
    assert read.label_space.names == ("happiness", "sadness")


def test_a_class_of_test_clips_only_is_a_class_and_is_pointed_out(folder):
    read = manifest.read(with_row(folder, label="anger", split="test"))
    assert "anger" in read.label_space.names
    assert any("no training clip for anger" in warning for warning in read.warnings)


def test_label_spaces_by_name_and_by_list(folder):
    path = write(folder, GOOD)
    assert len(manifest.read(path, labels="mer2024").label_space.names) == 6
    mine = manifest.read(path, labels=["sad", "happy", "neutral"])
    assert mine.label_space.names == ("sad", "happy", "neutral")
    assert mine.clips[0].label == "happy"
    with pytest.raises(ConfigError, match="did you mean 'mer2024'"):
        manifest.read(path, labels="mer2042")
    with pytest.raises(ConfigError, match="at least two classes"):
        manifest.read(path, labels=["happy", "joy"])


def test_an_enormous_transcript_is_read(folder):
    words = "word " * 100_000
    read = manifest.read(write(folder, [("a", words, "happy"), ("b", "y", "sad")], ["clip_id", "text", "label"]))
    assert read.clips[0].text == words


@given(st.text(max_size=220))
@example("a\n")
@example("-rf")
@example("x" * 200)
@example("a\u0661")
def test_an_id_passes_exactly_when_it_is_a_plain_name(clip_id):
    plain = re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,200}", clip_id) is not None
    assert (manifest._id_fault(clip_id) is None) == plain


def test_a_hundred_thousand_rows(tmp_path):
    n = 100_000
    (tmp_path / "video").mkdir()
    for i in range(0, n, 1000):
        (tmp_path / "video" / f"c{i}.mp4").touch()
    frame = pd.DataFrame({"clip_id": [f"c{i}" for i in range(n)], "video": [f"video/c{i}.mp4" for i in range(n)]})
    frame["label"] = [["happy", "sad", None][min(i, 2)] if i < 3 else None for i in range(n)]
    frame.to_csv(tmp_path / "clips.csv", index=False)
    read = manifest.read(str(tmp_path / "clips.csv"))
    assert len(read.clips) == n
    assert sum(c.split is Split.UNLABELED for c in read.clips) == n - 2
    assert read.clips[-1].video == str(tmp_path / "video" / f"c{n - 1}.mp4")
