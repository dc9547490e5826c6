from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mer_ray.benchmarks.nemo import make_manifests
from mer_ray.errors import ManifestError

SPEAKERS = ("EB0", "KS0", "MP0", "IC0", "KD0", "SM0")
EMOTIONS = ("anger", "fear", "sadness")


def make_nemo(folder: Path, sheet: str = "metadata.csv", per_emotion: int = 5) -> pd.DataFrame:
    """A made folder of nEMO's shape; the last recording of each speaker and emotion is listed but not there."""
    own = sheet.endswith(".tsv")
    rows = []
    for speaker in SPEAKERS:
        for emotion in EMOTIONS:
            for number in range(per_emotion + 1):
                name = f"{speaker}_{emotion}_{number}.wav"
                rows.append((name, emotion, speaker, f"Zdanie {number}, żółć."))
                if number < per_emotion:
                    path = folder / ("samples" if own else "") / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"RIFF")
    columns = ["file_id", "emotion", "speaker_id", "raw_text"] if own else ["file", "emotion", "speaker", "text"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / sheet, sep="\t" if own else ",", index=False)
    return pd.DataFrame(rows, columns=["file", "emotion", "speaker", "text"])


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


@pytest.mark.parametrize("sheet", ["metadata.csv", "data.tsv"])
def test_a_fifth_of_the_learnable_clips_keeps_its_label(tmp_path: Path, sheet: str) -> None:
    truth = make_nemo(tmp_path, sheet).set_index("file")
    first, second, whole = make_manifests(tmp_path, tmp_path / "out", seeds=(0, 1))
    rows = read(first)
    assert list(rows.columns) == ["clip_id", "audio", "text", "label", "speaker", "split"]
    assert len(rows) == len(SPEAKERS) * len(EMOTIONS) * 5
    assert rows["clip_id"].is_unique
    assert all((tmp_path / place).exists() for place in rows["audio"])
    assert set(rows[rows["split"] == "test"]["speaker"]) == {"EB0", "KS0", "MP0"}
    assert not set(rows[rows["split"] != "test"]["speaker"]) & {"EB0", "KS0", "MP0"}
    assert rows[rows["split"] == "train"]["label"].value_counts().to_dict() == dict.fromkeys(EMOTIONS, 3)
    assert (rows[rows["split"] == "unlabeled"]["label"] == "").all()
    assert (rows["split"] == "unlabeled").sum() == 36
    kept = rows[rows["label"] != ""]
    assert (kept["label"] == [truth.loc[f"{name}.wav", "emotion"] for name in kept["clip_id"]]).all()
    assert (rows["text"] == [truth.loc[f"{name}.wav", "text"] for name in rows["clip_id"]]).all()
    every = read(whole)
    assert set(every["split"]) == {"train", "test"}
    assert (every["label"] != "").all()
    assert every["clip_id"].tolist() == rows["clip_id"].tolist() == read(second)["clip_id"].tolist()


def test_the_seed_alone_decides_the_draw(tmp_path: Path) -> None:
    make_nemo(tmp_path)
    first, second, _ = make_manifests(tmp_path, tmp_path / "a", seeds=(0, 1))
    again, _ = make_manifests(tmp_path, tmp_path / "b", seeds=(0,))
    assert first.read_bytes() == again.read_bytes() != second.read_bytes()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"neither metadata\.csv nor data\.tsv"):
        make_manifests(tmp_path, tmp_path / "out", seeds=(0,))
    (tmp_path / "metadata.csv").write_text("file,emotion\na.wav,fear\n")
    with pytest.raises(ManifestError, match="no column speaker, text"):
        make_manifests(tmp_path, tmp_path / "out", seeds=(0,))
    (tmp_path / "metadata.csv").write_text("file,emotion,speaker,text\na.wav,fear,IC0,x\n")
    with pytest.raises(ManifestError, match="none of the 1 recordings"):
        make_manifests(tmp_path, tmp_path / "out", seeds=(0,))
    make_nemo(tmp_path, per_emotion=1)
    with pytest.raises(ManifestError, match="too few to label"):
        make_manifests(tmp_path, tmp_path / "out", seeds=(0,))
