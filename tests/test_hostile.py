"""Hostile media through the real stages, job and decoder: each file becomes what is expected of it."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import made_hostile
import made_job
import made_odd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_samples import talking_face, voice, write_media

from mer_ray import config
from mer_ray.config import DenoiseConfig, FacesConfig, MediaConfig
from mer_ray.data.media import Decoder
from mer_ray.errors import ClipError, Reason
from mer_ray.stages.decode import decoder
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.visit import MediaVisit

MEDIA = MediaConfig(max_seconds=60)
ENCODERS = "encoders={loud: {plugin: logmel}, shape: {plugin: hog}}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A media root with every case in its folder ``media``, and beside it a secret that some of them name."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "root" / "media").mkdir(parents=True)
    secret = write_media(folder / "secret.ts", voice(1.0), talking_face((160, 120), 10), container="mpegts")
    good = made_hostile.Good(folder)
    cases = [*made_hostile.media(good, secret), *made_odd.media(good)]
    for case in cases:
        (folder / "root" / "media" / case.name).write_bytes(case.data)
    return folder, cases


def outcome(row):
    return row["error"] or ("present" if row["present"] else "absent")


def unexpected(cases, rows_by_step):
    """The cases that became something else, with what that is."""
    return {
        (case.name, step): (outcome(row), row["detail"])
        for step, rows in rows_by_step.items()
        for case, row in zip(cases, rows, strict=True)
        if outcome(row) not in getattr(case, step).split("|")
    }


def test_the_corpus_is_large_and_holds_most_reasons(corpus):
    _, cases = corpus
    assert len({case.name for case in cases}) == len(cases) > 200
    expected = Counter(reason for case in cases for told in (case.audio, case.faces) for reason in told.split("|"))
    assert expected.keys() >= {
        "present", "absent", "empty_file", "forbidden_format", "unreadable", "no_streams", "too_short", "too_long",
        "too_large", "too_fast", "not_finite",
    }  # fmt: skip


def test_every_file_becomes_a_row_or_a_reason_in_the_stages(corpus, monkeypatch):
    folder, cases = corpus
    monkeypatch.chdir(folder)
    address = str(folder / "root" / "media")
    clips = [
        dict.fromkeys(("video", "audio", "faces", "text"))
        | {"clip_id": f"c{i}", case.column: f"{address}/{case.name}", "media_root": str(folder / "root")}
        for i, case in enumerate(cases)
    ]
    batch = pa.table({"clip_id": [clip["clip_id"] for clip in clips], "clip": pa.array(clips)})
    stages = {
        "audio": DenoiseStage(MEDIA, DenoiseConfig(), 60.0),
        "faces": FacesStage(MEDIA, FacesConfig(), 60.0),
    }
    decoder(MEDIA).frames(f"{address}/ends_in_noise.mp4", 5, 5)
    pid, made = decoder(MEDIA).pid, {}
    for step, stage in stages.items():
        stage.setup()
        made[step] = stage.process(stage.prepare(batch))
    assert unexpected(cases, {step: table.to_pylist() for step, table in made.items()}) == {}
    visit = MediaVisit(**stages)
    together = visit.process(visit.prepare(batch))
    assert {step: table.equals(made[step]) for step, table in together.items()} == {"audio": True, "faces": True}
    few = FacesStage(MEDIA, FacesConfig(fps=3), 60.0)  # so few that frames are skipped in films of 10 a second
    assert unexpected(cases, {"faces": few.process(few.prepare(batch)).to_pylist()}) == {}
    assert decoder(MEDIA).pid == pid, "a file broke its decoder"
    assert sorted(os.listdir(folder)) == ["root", "secret.ts"]


def test_every_file_becomes_a_row_or_a_reason_in_the_job(ray_cluster, corpus, tmp_path):
    folder, cases = corpus
    cases = [case for case in cases if case.column != "faces"]  # a manifest has no column for these
    rows = {
        "clip_id": [f"c{i:03}" for i in range(len(cases))],
        **{
            column: [f"media/{case.name}" if case.column == column else None for case in cases]
            for column in ("video", "audio")
        },
    }
    pd.DataFrame(rows).to_csv(folder / "root" / "clips.csv", index=False)
    arguments = [f"data.manifest={folder / 'root' / 'clips.csv'}", "run.dir=run", ENCODERS, "media.max_seconds=60"]
    done = made_job.here("extract", *arguments, "max_error_fraction=1", cwd=tmp_path, on_ray=True)
    assert done.returncode == 0, done.stderr
    made = {}
    for step in ("audio", "faces"):
        table = pa.concat_tables(pq.read_table(part) for part in tmp_path.glob(f"run/tables/{step}/*/[!_]*.parquet"))
        by_id = {row["clip_id"]: row for row in table.select(["clip_id", "present", "error", "detail"]).to_pylist()}
        made[step] = [by_id[clip_id] for clip_id in rows["clip_id"]]
    assert unexpected(cases, made) == {}
    encoded = pq.read_table(list(tmp_path.glob("run/tables/loud/*/[!_]*.parquet"))).to_pylist()
    heard = {row["clip_id"] for row in encoded if row["present"]}
    assert heard == {row["clip_id"] for row in made["audio"] if row["present"]}
    assert not (tmp_path / "ran").exists()


def watched(log, path):
    """An interpreter that runs under strace; skips the test where that cannot be."""
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "-qq", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("strace is not installed, or must not trace here")
    calls = "network,open,openat,openat2,execve,read,pread64,mmap"
    path.write_text(f'#!/bin/sh\nexec {strace} -qq -f -y -o {log} -e trace={calls} {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def answers(decoder, path, root):
    """What four questions about a file are answered by: whether there is something, or a reason."""
    asks = (
        decoder.probe,
        decoder.audio,
        lambda path, root: decoder.frames(path, 5, 20, root),
        lambda path, root: decoder.audio_and_frames(path, 5, 20, root),
    )
    for ask in asks:
        try:
            yield ask(path, root) is not None
        except ClipError as error:
            yield error.reason


def test_the_decoder_reaches_no_network_and_no_file_outside_the_root(corpus, tmp_path, monkeypatch):
    folder, cases = corpus
    root, link = folder / "root", folder / "root" / "media" / "swapped.ts"
    monkeypatch.setattr(sys, "executable", watched(tmp_path / "log", tmp_path / "python"))
    link.symlink_to(folder / "secret.ts")
    try:
        with Decoder(MEDIA) as watching:
            given = Counter(a for case in cases for a in answers(watching, str(root / "media" / case.name), str(root)))
            with pytest.raises(ClipError, match="leads out of the media root"):
                watching.audio(str(link), str(root))
    finally:
        link.unlink()
    assert given[True] > 200
    assert not given.keys() & {Reason.CRASHED, Reason.TIMEOUT, Reason.FAILED, Reason.MISSING_FILE}
    log = (tmp_path / "log").read_text()
    assert not re.findall(r".*AF_INET.*", log)
    opened = re.findall(r'open(?:at2?)?\(.*?"(.*)", O_.* = \d+<(.*)>$', log, re.MULTILINE)
    asked = [place for place, (path, _) in enumerate(opened) if path.startswith(f"{root}/media/")]
    assert len(asked) > 2 * len(cases), "nothing was traced"
    installed = (sys.prefix, sys.base_prefix, str(config.REPOSITORY), "/usr/lib", "/lib", "/usr/share")
    others = {real for _, real in opened[asked[0] :] if not real.startswith((f"{root}/media/", *installed))}
    assert others == {str(folder / "secret.ts")}, "by the symlink alone, to see where it leads"
    assert not re.findall(r"(?:read|pread64|mmap)\(.*<[^>]*secret\.ts>.*", log)
