"""What a user may bring, good and strange, drawn by hypothesis: manifests, folders of public sets, configs."""

import csv
import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from mer_ray import config

WORDS = (
    "", " ", "a", "b", "1", "happy", "sad", "neutral", "nan", "NaN", "inf", "1e999", "-0", "0.5", "=1+1", '"', "a\nb",
    "\0", "..", "../x", "a.mp4", "/etc/passwd", "s3://b/k", "gs://b/k", "http://h/k", "x" * 300, "é", "\ufeff", "train",
    "test", "tset", "unlabeled", "valid", "video/a.mp4", "9" * 5000, "\u202e", "1_0", "٣",
)  # fmt: skip
SELDOM = st.sampled_from([False] * 9 + [True])
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
CELLS = st.one_of(st.sampled_from(WORDS), TEXT)
ROW = "the row's own"
IDS = st.just(ROW)
LABELS = st.sampled_from(["happy", "sad", "neutral", "Happy", ""])
NUMBERS = st.sampled_from(["0.5", "-0.5", "0", "-1e-3", ""])
SAID = st.one_of(st.sampled_from(["hello", "你好", ""]), TEXT)
CLIPS = {
    "clip_id": IDS,
    "video": st.sampled_from(["a.mp4", "a.mp4", "./a.mp4", "none.mp4", ""]),
    "audio": st.sampled_from(["a.mp4", ""]),
    "text": SAID,
    "label": LABELS,
    "valence": NUMBERS,
    "split": st.sampled_from(["", "train", "test", "unlabeled"]),
    "speaker": st.sampled_from(["", "s1"]),
}
"""What a good manifest holds, by column."""


@st.composite
def sheets(draw, plausible, needed):
    """A file of people's: most often one that can be read, with a strange cell here and there, or a byte."""
    kind = draw(st.sampled_from(["bytes" if draw(SELDOM) else "csv", "parquet"]))
    if kind == "bytes":
        return draw(st.sampled_from([b"", b"PAR1", b"PK\x03\x04", b"\xff\xfe"])) + draw(st.binary(max_size=100))
    names = [*needed, *draw(st.lists(st.sampled_from(list(plausible)), max_size=4)), *draw(st.lists(CELLS, max_size=1))]
    names = names if draw(SELDOM) else draw(st.permutations(list(dict.fromkeys(names))))
    rows = draw(st.sampled_from([3, 4, 5, 2, 1, 0]))
    data = draw((parquet if kind == "parquet" else texts)(plausible, names, rows))
    if not draw(SELDOM):
        return data
    for place in draw(st.lists(st.integers(4, max(4, len(data))), max_size=3)):
        data = data[:place] + draw(st.binary(max_size=3)) + data[place + draw(st.integers(0, 3)) :]
    return data


@st.composite
def texts(draw, plausible, names, rows):
    lines = [names]
    for row in range(rows):
        cells = [draw(plausible.get(name, CELLS)) for name in names]
        lines.append([f"c{row}" if cell == ROW else cell for cell in cells])
    if draw(SELDOM) and rows:
        lines[-1][draw(st.integers(0, len(names) - 1))] = draw(CELLS)
    if draw(SELDOM):
        lines.append(draw(st.lists(CELLS, max_size=4)))
    buffer, ends = io.StringIO(newline=""), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    csv.writer(buffer, delimiter=";" if draw(SELDOM) else ",", lineterminator=ends).writerows(lines)
    encoding = draw(st.sampled_from(["utf-16", "latin-1"] if draw(SELDOM) else ["utf-8", "utf-8-sig"]))
    return buffer.getvalue().encode(encoding, "replace")


KINDS = {
    pa.string(): CELLS.filter(lambda cell: cell.isascii()),
    pa.large_string(): st.sampled_from(WORDS[:20]),
    pa.binary(): st.binary(max_size=4),
    pa.float64(): st.floats(),
    pa.float16(): st.floats(width=16),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.date32(): st.integers(-(2**31), 2**31 - 1),
    pa.date64(): st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("s"): st.integers(-(2**53), 2**53),
    pa.timestamp("ns", "Europe/Paris"): st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("us", "nowhere"): st.integers(0, 2**40),
    pa.duration("s"): st.integers(-(2**53), 2**53),
    pa.time64("ns"): st.integers(0, 86_399 * 10**9),
    pa.decimal128(38, 2): st.decimals(-1000, 1000, places=2),
    pa.list_(pa.int8()): st.lists(st.integers(0, 9), max_size=2),
    pa.struct([("a", pa.int8())]): st.just({"a": 1}),
    pa.null(): st.none(),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(WORDS[:10]),
}


@st.composite
def parquet(draw, plausible, names, rows):
    columns = []
    for name in names:
        kind = draw(st.sampled_from(list(KINDS))) if draw(SELDOM) else pa.string()
        values = plausible.get(name, CELLS) if kind == pa.string() else KINDS[kind]
        drawn = draw(st.lists(values, min_size=rows, max_size=rows))
        drawn = [f"c{row}" if value == ROW else value for row, value in enumerate(drawn)]
        columns.append(pa.array(drawn, kind))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=names), buffer)
    return buffer.getvalue()


NAMES = st.one_of(
    st.sampled_from(
        [
            "c0.mp4",
            "c1.mp4",
            "c2.wav",
            "a",
            "a.mp4",
            "a.MP4",
            "b.wav",
            ".a.mp4",
            "a.mp4.mp4",
            "0001.mp4",
            "-.mp4",
            " .mp4",
            ".mp4",
        ]
    ),
    st.binary(min_size=1, max_size=8)
    .map(lambda name: os.fsdecode(name.translate(None, b"/\0")))
    .filter(lambda n: n.strip(".")),
)
NAMED = {
    "name": IDS,
    "discrete": LABELS,
    "valence": NUMBERS,
    "chinese": SAID,
    "english": SAID,
    "sentence": SAID,
}
SPOKEN = {
    "video_id": st.sampled_from(["a", "a", "b", "-x"]),
    "clip_id": st.one_of(IDS, IDS, st.sampled_from(["0001", "1", "2"])),
    "text": SAID,
    "label": NUMBERS,
    "mode": st.sampled_from(["train", "valid", "test", "unsupervised"]),
    "annotation": st.sampled_from(["Positive", "Negative", "Neutral", ""]),
    "label_T": NUMBERS,
}
MARKS = st.fixed_dictionaries({"emo": st.one_of(LABELS, st.integers(-1, 7)), "val": st.one_of(st.none(), st.floats())})


@st.composite
def corpora(draw):
    """A label file of MERTools, most often a good one."""
    names = draw(st.lists(st.sampled_from(["train_corpus", "test1_corpus", "test2_corpus", "other"]), max_size=3))
    marks = st.dictionaries(
        st.sampled_from(["c0", "c1", "c2"]), st.one_of(MARKS, MARKS, st.just({}), st.none()), max_size=4
    )
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array(draw(marks), dtype=object) for name in dict.fromkeys(names)})
    data = buffer.getvalue()
    for place in draw(st.lists(st.integers(0, len(data)), max_size=2 if draw(SELDOM) else 0)):
        data = data[:place] + draw(st.binary(max_size=3)) + data[place + draw(st.integers(0, 3)) :]
    return data


STATED = sheets(NAMED, ["name", "discrete"])
FOLDERS = {
    "chsims": (
        {name: sheets(SPOKEN, ["video_id", "clip_id", "text", "label", "mode"]) for name in ("meta.csv", "label.csv")},
        ("Raw", "Raw/a", "Raw/b", "Raw/a/b"),
    ),
    "mertools": (
        {
            "label-disdim.csv": STATED,
            "track1_train.csv": STATED,
            "track1_train_disdim.csv": STATED,
            "label-6way.npz": corpora(),
            "transcription.csv": sheets(NAMED, ["name", "chinese"]),
            "subtitle_chieng.csv": sheets(NAMED, ["name", "english"]),
            "track1_track2_candidate.csv": sheets(NAMED, ["name"]),
            "track_all_candidates.csv": sheets(NAMED, ["name"]),
        },
        ("video", "video-labeled", "video-unlabeled-with-test2noise", "audio", "openface_face", "openface_face/a"),
    ),
}


@st.composite
def brought(draw, layout):
    """A folder's files: first one that tells the layout."""
    made, _ = FOLDERS[layout]
    first = draw(st.sampled_from([name for name in made if name.startswith(("meta", "label", "track1_train"))]))
    others = draw(st.lists(st.sampled_from(list(made)), max_size=2))
    return {name: draw(made[name]) for name in dict.fromkeys([first, *others])}


JOBS = (config.MineConfig, config.ExtractConfig, config.PredictConfig, config.ProbeConfig, config.TuneConfig)
DEFAULTS = {key: default for job in JOBS for key, default, _ in config.describe(job)}
KEYS = sorted(set.intersection(*({key for key, _, _ in config.describe(job)} for job in JOBS)))
YAML = (
    "", "1", "-1", "0", "0.5", "true", "~", ".nan", ".inf", "-.inf", "1e400", "9" * 5000, "[]", "{}", "[a, b]",
    "{a: b}", "{1: 2}", "{~: 1}", "{[a]: b}", "? [a]\n: b", "&a [*a]", "&a {b: *a}", "*a", "2001-99-99", "2001-01-01",
    "{2001-01-01: 1}", "!!int x", "!!float x", "!!timestamp x", "!!binary x", "!!bool x", "!!set {a}", "!!omap [a: 1]",
    "!!pairs [a: 1]", "!!python/object/apply:os.system [true]", '"\\ud800"', '"\\0"', "=", "<<: 1", "{<<: [1]}",
    "{<<: {a: 1}}", "[" * 500, "{a: " * 500, "auto", "demo", "gs://b", "s3://b/k", "1:2:3", "0x", "0b2", "1_0",
    "- a\n- b", "!x y", "%YAML 9.9\n---", "a: b: c", "\t", "'", "|", "@", "`", "{plugin: ngrams}", "{name: haar}",
    "[{kind: babble}]", "\x7f", "\ud800",
)  # fmt: skip
VALUES = st.one_of(st.sampled_from(YAML), st.sampled_from(YAML), TEXT)
PARTS = st.one_of(st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})), TEXT)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.dates())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(PARTS, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def overrides(draw):
    if draw(SELDOM):
        return draw(TEXT)
    if draw(st.booleans()):
        return "{}={}".format(*draw(st.sampled_from(sorted(DEFAULTS.items()))))
    key = draw(TEXT) if draw(SELDOM) else draw(st.sampled_from(sorted(DEFAULTS)))
    return f"{key}{draw(st.sampled_from(['.a', '.b.c', '.'])) if draw(SELDOM) else ''}={draw(VALUES)}"


@st.composite
def config_files(draw):
    kind = draw(st.sampled_from(["none", "none", "none", "key", "key", "value", "tree", "bytes"]))
    if kind == "key":
        parts = draw(st.sampled_from(KEYS)).split(".")
        text = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(parts)).rstrip() + f" {draw(VALUES)}"
    elif kind == "tree":
        text = yaml.safe_dump(draw(TREES), allow_unicode=True)
    elif kind == "value":
        text = draw(VALUES)
    else:
        return draw(st.binary(max_size=50)) if kind == "bytes" else b""
    return text.encode("utf-8", "surrogatepass")
