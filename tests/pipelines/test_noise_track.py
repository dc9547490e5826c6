"""The noise track by the main job: the test clips heard in noise, as they are and denoised."""

import json
import re
import shutil

import in_process
import made_runs
import numpy as np
import pyarrow.dataset as pads
import pytest
import soundfile

from mer_ray.config import MineConfig

HUSHED, LOUD = "environment_80db", "environment_-5db"


def track(folder, *cases):
    told = ", ".join(f"{{snr_db: {ratio}, kind: {kind}, folder: {folder}}}" for kind, ratio in cases)
    return f"evaluation.noise=[{told}]"


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder of noise with a silent head, in which a stretch may hold nothing."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for name in ("rain", "wind"):
        sound = np.concatenate([np.zeros(8000), rng.normal(size=40_000) * 0.2]).astype(np.float32)
        soundfile.write(folder / f"{name}.wav", sound, 16_000)
    return folder


@pytest.fixture(scope="module")
def job(mined_clips, noise, tmp_path_factory):
    """A run like that of ``mined_clips`` on its clips and tables, with a track; and its command's arguments."""
    root = tmp_path_factory.mktemp("track")
    shutil.copytree(mined_clips / "clips", root / "run/clips")
    shutil.copytree(mined_clips / "tables", root / "run/tables")
    cases = track(noise, ("environment", 80), ("environment", -5), ("babble", 0))
    told = (*made_runs.DEMO, *made_runs.QUICK, "evaluation.ablations=false", "mining.guard=false")
    told = (*told, f"run.dir={root}/run", cases)
    assert in_process.run("mine", *told) == 0
    return root / "run", told


def figures(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def rows(run_dir, step):
    """By the table's folder, its rows by clip."""
    found = {}
    for folder in sorted((run_dir / "tables" / step).iterdir()):
        parts = [path for path in folder.glob("*.parquet") if path.name[0] != "_"]
        found[folder.name] = {row["clip_id"]: row for row in pads.dataset(parts).to_table().to_pylist()}
    return found


def test_every_case_is_predicted_as_it_is_and_denoised(job):
    told = figures(job[0])
    assert list(told["noise"]) == [HUSHED, LOUD, "babble_0db"]
    for case in told["noise"].values():
        assert case["clean"]["waf"] == told["test"]["waf"]
        assert case["num_clips"] == sum(one["support"] for one in told["scores"]["classes"])
        for how in ("raw", "denoised"):
            assert 0 <= case[how]["waf"] <= 1
            assert case[how]["errors"] == 0


def test_noise_that_nobody_hears_changes_nothing(job):
    case = figures(job[0])["noise"][HUSHED]
    assert case["denoised"]["waf"] == case["clean"]["waf"]
    assert case["denoised"]["standard_error"] == 0


def test_the_clips_are_noisier_by_the_case_in_tables_of_their_own(job, mined_clips):
    whole, *cases = sorted(rows(job[0], "audio").values(), key=len, reverse=True)
    assert whole.keys() == rows(mined_clips, "audio").popitem()[1].keys()
    assert len(cases) == 6
    tested = cases[0].keys()
    assert all(case.keys() == tested for case in cases)
    ratios = sorted(np.median([row["snr_db"] for row in case.values() if row["present"]]) for case in cases)
    assert ratios[0] < ratios[-1] - 20
    assert len(rows(job[0], "hog")) == 1, "no noise is seen"


def test_it_goes_on_where_it_was_and_ends_the_same(job):
    run_dir, told = job
    before = figures(run_dir)["noise"]
    shutil.rmtree(next(path for path in (run_dir / "tables/logmel").iterdir() if len(list(path.glob("[!_]*"))) == 1))
    assert in_process.run("mine", *told) == 0
    assert figures(run_dir)["noise"] == before


def test_the_report_draws_it(job):
    page = (job[0] / "report.html").read_text()
    for part in ("How it holds in noise", HUSHED, "babble, denoised", "environment, as it is", "\N{MINUS SIGN}5 dB"):
        assert part in page


def test_a_run_that_does_not_denoise_says_so(job, capsys):
    run_dir, told = job
    bare = run_dir.parent / "bare"
    shared = (f"tables.dir={run_dir}/tables", f"data.demo.dir={run_dir}/clips")
    assert in_process.run("mine", *told, *shared, "denoise.enabled=false", f"run.dir={bare}") == 0
    assert "predicted without denoising alone" in capsys.readouterr().out
    for case in figures(bare)["noise"].values():
        assert case["raw"]["waf"] is not None
        assert case["denoised"] == dict.fromkeys(case["denoised"])


def test_a_dry_run_tells_of_it(job, capsys):
    assert in_process.run("mine", *job[1], "--dry-run") == 0
    assert "3 case(s) of evaluation.noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["evaluation.noise=[{snr_db: 5, folder: nowhere}]"], "environment_5db: .*nowhere: no .wav or .flac"),
        (["evaluation.noise=[{snr_db: 5, folder: bad}]"], "environment_5db: .*x.wav cannot be read"),
        (["evaluation.noise=[{snr_db: 5, folder: a}, {snr_db: 5, folder: b}]"], "two cases .* environment_5db"),
        (["evaluation.noise=[{kind: babble, folder: a}]"], "snr_db"),
        (["{noise}", "encoders={hog: {plugin: hog}}"], "no encoder hears the clips"),
        (["{noise}", "data.layout=manifest", "data.manifest=unscored.csv"], "no clip of the split test has a label"),
    ],
)
def test_what_cannot_be_done_is_refused_before_work(told, why, noise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.wav").write_text("no sound")
    (tmp_path / "unscored.csv").write_text("clip_id,text,label,split\na,hm,joy,train\nb,hm,rage,train\nc,hm,,test\n")
    told = [word.format(noise=track(noise, ("environment", 5))) if word == "{noise}" else word for word in told]
    assert in_process.run("mine", *told, "run.dir=run") == 2
    printed = " ".join("".join(capsys.readouterr()).split())
    assert re.search(why, printed), printed
    assert not (tmp_path / "run/tables").exists()


def test_a_case_is_called_by_its_kind_and_ratio_or_by_its_name():
    cases = [{"snr_db": 2.5, "folder": "a"}, {"snr_db": 2.5, "folder": "b", "name": "street"}]
    settings = MineConfig.model_validate({"evaluation": {"noise": cases}})
    assert [case.case for case in settings.evaluation.noise] == ["environment_2.5db", "street"]
