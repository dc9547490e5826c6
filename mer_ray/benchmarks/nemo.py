"""Manifests for nEMO, acted Polish speech in six emotions (Christop 2024, CC BY-NC-SA 4.0); see docs/nemo.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split

from mer_ray.errors import ManifestError

TEST_SPEAKERS = ("EB0", "KS0", "MP0")
LABELLED_FRACTION = 0.2
SHEETS = ("metadata.csv", "data.tsv")
"""What the list of recordings may be called; the second is nEMO's own, with its recordings in ``samples/``."""

_OWN_NAMES = {"file_id": "file", "speaker_id": "speaker", "raw_text": "text"}
_COLUMNS = ["file", "emotion", "speaker", "text"]


def make_manifests(folder: str | Path, out: str | Path, seeds: Iterable[int]) -> list[Path]:
    """Write one manifest with a fifth of the labels per seed, and one with all of them.

    The recordings that are in ``folder`` are taken, the others left out. The clips of ``TEST_SPEAKERS`` are the test
    split, with labels for scoring. Of the rest, a fifth drawn by ``seed`` and stratified by emotion is labelled.
    ``nemo-all.csv`` labels all of them: the score to reach. Media addresses are relative to ``folder``: give it as
    ``data.media_root``.

    Args:
        folder: holds ``metadata.csv`` or ``data.tsv`` and the wav files.
        out: folder for the manifests; made if it is not there.
        seeds: one ``nemo-20pc-seed<seed>.csv`` each.

    Returns:
        The files written: one per seed, in order, then ``nemo-all.csv``.

    Raises:
        ManifestError: no list of recordings, a column missing, no recording present, or too few of an emotion.
    """
    source, target = Path(folder), Path(out)
    recordings = _read(source)
    target.mkdir(parents=True, exist_ok=True)
    learnable = recordings.index[recordings["split"] == "train"]
    written = []
    for seed in seeds:
        labelled = _draw(recordings.loc[learnable, "label"], seed)
        manifest = recordings.copy()
        hidden = learnable.difference(pd.Index(labelled))
        manifest.loc[hidden, "split"] = "unlabeled"
        manifest.loc[hidden, "label"] = ""
        written.append(_write(manifest, target / f"nemo-20pc-seed{seed}.csv"))
    written.append(_write(recordings, target / "nemo-all.csv"))
    return written


def _read(folder: Path) -> pd.DataFrame:
    """Every recording that is present, as manifest rows with all labels."""
    sheet = next((folder / name for name in SHEETS if (folder / name).exists()), None)
    if sheet is None:
        raise ManifestError(f"{folder} holds neither {' nor '.join(SHEETS)}; give the folder of nEMO")
    separator = "\t" if sheet.suffix == ".tsv" else ","
    rows = pd.read_csv(sheet, sep=separator, dtype=str, keep_default_na=False).rename(columns=_OWN_NAMES)
    if missing := [name for name in _COLUMNS if name not in rows]:
        raise ManifestError(f"{sheet} has no column {', '.join(missing)}; it has {', '.join(rows.columns)}")
    audio = [_find(folder, name) for name in rows["file"]]
    present = [place is not None for place in audio]
    if not any(present):
        raise ManifestError(f"none of the {len(rows)} recordings that {sheet} lists is in {folder}")
    manifest = pd.DataFrame(
        {
            "clip_id": [Path(name).stem for name in rows["file"]],
            "audio": audio,
            "text": rows["text"],
            "label": rows["emotion"],
            "speaker": rows["speaker"],
            "split": ["test" if speaker in TEST_SPEAKERS else "train" for speaker in rows["speaker"]],
        }
    )
    return manifest[present].reset_index(drop=True)


def _find(folder: Path, name: str) -> str | None:
    """Where the recording is, relative to ``folder``; None when it is not there."""
    return next((place for place in (name, f"samples/{name}") if (folder / place).exists()), None)


def _draw(labels: pd.Series[str], seed: int) -> list[int]:
    try:
        drawn, _ = train_test_split(labels.index, train_size=LABELLED_FRACTION, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ManifestError(
            f"{len(labels)} recordings are too few to label a fifth of each emotion: {error}"
        ) from error
    return list(drawn)


def _write(manifest: pd.DataFrame, path: Path) -> Path:
    manifest.to_csv(path, index=False, lineterminator="\n")
    return path
