"""A folder of recordings without transcripts: the demo's voices, clean and in noise, as sound files and a manifest."""

import pandas as pd
import soundfile

from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice, noisy_voice

CLASSES = ("anger", "happiness")
WEIGHTS = "{weights: {source: package:whisper-tiny.en}, max_tokens: 32}"
OPTIONS = (
    f"transcribe.recogniser={{name: ctranslate2, options: {WEIGHTS}}}",
    "denoise.separator=rnnoise",
    "faces.enabled=false",
)


def recordings(folder, count):
    """``clips.csv`` in ``folder`` and its ``count`` recordings, two classes in turn; a third has no label."""
    usable = [clip for clip in plan(20 * count, 0) if clip.broken is None and clip.words]
    by_class = [[clip for clip in usable if clip.label == name] for name in CLASSES]
    chosen = [clip for pair in zip(*by_class, strict=False) for clip in pair][:count]
    rows = []
    for i, clip in enumerate(chosen):
        name, is_labelled = f"{clip.clip_id}.wav", i % 6 < 4
        soundfile.write(folder / name, clean_voice(clip) if i % 2 else noisy_voice(clip), 16_000)
        split = "train" if is_labelled else "unlabeled"
        rows.append({"clip_id": clip.clip_id, "audio": name, "label": clip.label * is_labelled, "split": split})
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    return folder / "clips.csv"
