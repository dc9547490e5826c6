"""Every command in a fence of the documents is run on small made data, or stands here beside the test that runs it."""

import ast
import os
import re
import shlex
import subprocess
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import documented
import in_process
import made_runs
import made_stock
import pytest
from huggingface_hub.cli.hf import app as hub

from mer_ray import config
from mer_ray.benchmarks import harness

PYTHON = ".venv/bin/python"
SUBMITTED = "tests/e2e/test_submit.py::test_a_submitted_job_leaves_its_results_under_the_runs_folder"
ON_S3 = "tests/faults/test_s3.py::test_a_table_is_committed_once_and_a_truncated_part_is_made_again"
TRAINED = "tests/e2e/test_train.py::test_a_task_trains_on_two_workers_and_its_loss_falls"
HERE = "tests/test_commands.py::test_make_and_ci_run_what_they_are_said_to"
BENCHMARKS = "tests/benchmarks/test_"
LAUNCHED = "tests/test_cluster.py::test_rays_commands_take_what_the_page_gives_them"

ELSEWHERE = {
    ".venv/bin/ray start": SUBMITTED,
    ".venv/bin/ray job submit": SUBMITTED,
    ".venv/bin/ray job submit --address http://127.0.0.1:8265 --working-dir . -- bash cluster/again.sh": (
        "tests/e2e/test_cluster.py::test_a_job_runs_on_workers_alone_and_is_not_tried_again"
    ),
    ".venv/bin/ray get-auth-token": "tests/test_cluster.py::test_every_node_asks_for_the_token_and_has_it",
    ".venv/bin/ray up": LAUNCHED,
    ".venv/bin/ray dashboard": LAUNCHED,
    ".venv/bin/ray down": LAUNCHED,
    f"{PYTHON} jobs/tune.py": "tests/pipelines/test_tune.py::test_the_trials_are_a_table_a_page_and_a_few_lines",
    f"{PYTHON} jobs/mine.py --config runs/tune/best.yaml": (
        "tests/pipelines/test_tune.py::test_the_best_config_is_one_that_mining_takes_and_comes_to_the_same_with"
    ),
    f"{PYTHON} jobs/train_encoder.py": TRAINED,
    f"{PYTHON} jobs/mine.py --config jobs/configs/folder.yaml data.manifest=s3://": (
        "tests/faults/test_s3_mine.py::test_a_job_with_everything_in_s3_leaves_its_results_there"
    ),
    f"{PYTHON} jobs/mine.py --config jobs/configs/folder.yaml data.manifest=clips.csv evaluation.noise": (
        "tests/pipelines/test_noise_track.py::test_every_case_is_predicted_as_it_is_and_denoised"
    ),
    f"{PYTHON} -m pytest -m s3": ON_S3,
    f"{PYTHON} -m venv swift": ON_S3,
    "swift/bin/pip install": ON_S3,
    ".venv/bin/hf download": "tests/test_commands.py::test_the_hubs_command_line_takes_these_options",
    f"{PYTHON} jobs/bench.py extract": f"{BENCHMARKS}extract.py::test_the_pipeline_gives_what_the_bare_loop_gives",
    f"{PYTHON} jobs/bench.py extract pipeline=false": (
        f"{BENCHMARKS}extract.py::test_bare_and_peer_are_measured_without_ray"
    ),
    f"{PYTHON} jobs/bench.py scale": f"{BENCHMARKS}scale.py::test_it_measures_rate_memory_resuming_and_scaling",
    f"{PYTHON} jobs/bench.py chaos": (
        f"{BENCHMARKS}chaos.py::test_whatever_is_killed_nothing_is_lost_doubled_or_blamed"
    ),
    f"{PYTHON} jobs/bench.py mining": f"{BENCHMARKS}mining.py::test_every_column_is_measured_and_two_runs_say_the_same",
    f"{PYTHON} jobs/bench.py new_speakers": (
        f"{BENCHMARKS}new_speakers.py::test_a_new_speaker_is_told_better_the_more_of_his_clips_come_at_once"
    ),
    f"{PYTHON} jobs/bench.py voting": (
        f"{BENCHMARKS}voting.py::test_unequal_raters_are_pooled_better_than_by_counting_and_than_the_best_of_them"
    ),
    f"{PYTHON} jobs/bench.py denoise": (
        f"{BENCHMARKS}denoise.py::test_each_separator_is_measured_and_real_ones_clean_more_than_the_steady_filter"
    ),
    f"{PYTHON} jobs/weights.py convert": (
        "tests/pipelines/test_weights.py::test_a_published_pickle_becomes_a_folder_that_the_separator_loads"
    ),
    f"{PYTHON} jobs/bench.py round": f"{BENCHMARKS}round.py::test_a_small_round_is_measured",
    f"{PYTHON} jobs/bench.py job": f"{BENCHMARKS}job.py::test_a_small_job_is_measured",
    f"{PYTHON} jobs/bench.py memory": (
        f"{BENCHMARKS}memory.py::test_what_a_large_encoder_needs_falls_with_the_gpus_and_with_offload"
    ),
    f"{PYTHON} jobs/bench.py train": f"{BENCHMARKS}train.py::test_it_counts_and_times_a_step_of_each_case",
    f"{PYTHON} jobs/bench.py asr": f"{BENCHMARKS}asr.py::test_every_arm_is_trained_and_its_errors_are_counted",
    f"{PYTHON} jobs/bench.py tasks": f"{BENCHMARKS}tasks.py::test_it_trains_each_case_and_scores_new_speakers",
    f"{PYTHON} jobs/bench.py transcribe": f"{BENCHMARKS}transcribe.py::test_the_gate_keeps_words_out_of_noise",
    f"{PYTHON} jobs/bench.py decode": f"{BENCHMARKS}decode.py::test_each_way_is_measured_on_the_same_clips",
    f"{PYTHON} jobs/bench.py busy": f"{BENCHMARKS}busy.py::test_actors_beside_decoding_tasks_are_measured",
    "make mine": "tests/test_commands.py::test_make_mine_runs_the_demo",
    "make test": HERE,
    "make check": HERE,
    ".ci/run": HERE,
}
"""The test of each command that trains, measures, submits, or needs a server; commands are known by how they begin."""

SMALL = {
    "mine": (
        *made_runs.QUICK,
        "fit.epochs=2",
        "tables.dir=tables",
        "transcribe.enabled=false",
        "denoise.enabled=false",
    ),
    "extract": ("tables.dir=tables",),
    "probe": ("probe={layers: 2, folds: 2}", "tables.dir=tables"),
}
"""What makes a job quick, before the arguments of the document, which win; of Whisper's work see
``tests/pipelines/test_folder.py``."""

LEFT_BEHIND = ("run.dir", "html", "export.mertools", "export.huggingface")


def mapped(command):
    """The test beside the longest beginning of a command in ``ELSEWHERE``; None where there is none."""
    told = " ".join(command)
    fits = [beginning for beginning in ELSEWHERE if told.startswith(beginning)]
    return ELSEWHERE[max(fits, key=len)] if fits else None


def run(command):
    """Run a command, or hold it to what is cheaply known where a test elsewhere runs it."""
    match command:
        case (_, script, *arguments) if "--help" in arguments or any(word[0] == "[" for word in arguments):
            hold_usage(Path(script).stem, arguments)
        case (_, "jobs/bench.py", name, *arguments) if mapped(command):
            overrides = [word for word in arguments if "=" in word]
            assert config.load(harness.find(name).Config, None, overrides) is not None
        case _ if mapped(command):
            pass
        case (".venv/bin/python", "-c", code):
            exec(code, {})
        case (".venv/bin/python", script, *arguments) if script.startswith("jobs/"):
            run_job(Path(script).stem, [word.replace("=/data/", "=data/") for word in arguments])
        case _:
            pytest.fail(f"neither run here nor tested elsewhere: {' '.join(command)}")


def run_job(job, arguments):
    assert in_process.run(job, *SMALL.get(job, ()), *arguments) == 0, f"jobs/{job}.py {' '.join(arguments)}"
    for key, _, value in (word.partition("=") for word in arguments):
        assert key not in LEFT_BEHIND or Path(value).exists(), f"jobs/{job}.py left no {value}"


def hold_usage(job, arguments):
    """The help tells every flag and key of a usage line; a benchmark's name stays before its ``--help``."""
    names = [word for word in arguments if job == "bench" and word.isalpha()]
    with redirect_stdout(StringIO()) as told:
        assert in_process.run(job, *names, "--help") == 0
    for word in {word.strip("[]") for word in arguments} - {"--help"}:
        if word.startswith("--") or "=" in word:
            assert word.partition("=")[0] in told.getvalue(), f"jobs/{job}.py knows no {word}"


def recipe(target):
    """What ``make`` would do for a target, whatever a ``make`` that runs this test was told."""
    outer = {"ARGS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"}
    given = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "-n", "--no-print-directory", target]
    done = subprocess.run(command, cwd=documented.ROOT, capture_output=True, text=True, check=True, env=given)
    return done.stdout.splitlines()


@pytest.fixture
def shop(tmp_path, mined_clips, monkeypatch):
    """A working directory that holds what the documents speak of."""
    made_stock.lay_out(tmp_path, mined_clips)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", documented.PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_one_after_another(page, shop):
    for fence in documented.fences(page):
        if fence.language == "":
            for command in documented.commands(fence.text, NEMO=str(shop / "nemo")):
                run(command)
        elif fence.language == "python" and "mine.run(" in fence.text:
            run_snippet(fence.text)
        elif fence.language == "yaml":
            (shop / "FILE").write_text(fence.text.replace("gpus: 1 ", "gpus: 0 ").replace("layers: 4", "layers: 2"))


def run_snippet(code):
    """Python that calls the main job, with what makes a command quick."""
    load, names = config.load, {}
    with pytest.MonkeyPatch.context() as patch:
        in_process.without_ray(patch)
        patch.setattr(config, "load", lambda model, file, told: load(model, file, [*SMALL["mine"], *told]))
        exec(code, names)
    assert names["exit_code"] == 0


def test_make_mine_runs_the_demo(mined_clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in recipe("mine") if "jobs/mine.py" in line]
    assert shlex.split(line) == [PYTHON, "jobs/mine.py"]
    shared = (f"data.demo.dir={mined_clips}/clips", f"tables.dir={mined_clips}/tables")
    assert in_process.run("mine", *made_runs.DEMO, *made_runs.QUICK, "fit.epochs=2", *shared) == 0
    assert (tmp_path / "runs/demo/report.html").exists()


def test_make_and_ci_run_what_they_are_said_to():
    (quick,), (every,) = ([line for line in recipe(name) if "pytest" in line] for name in ("test", "test-all"))
    assert quick.startswith(f"{PYTHON} -m pytest ")
    assert " -m 'not slow' " in quick
    assert quick.replace(" -m 'not slow'", "") == every
    assert {f"{PYTHON} -m ruff check .", f"{PYTHON} -m mypy"} <= set(recipe("check"))
    in_ci = (documented.ROOT / ".ci/run").read_text().replace("\\\n", "").splitlines()
    assert in_ci.index("make check") + 1 == in_ci.index("make test")
    told = "MER_RAY_TEST_ALL=1 MER_RAY_TEST_SWIFT=$swift .venv/bin/python -m pytest -p no:xdist "
    assert in_ci[-1].startswith(told), "a skipped one would not be told of, or without a server all would be"
    groups = re.findall(r"tests/faults/test_(\w*){(\S+)}\.py", in_ci[-1])
    files = {f"test_{stem}{name}.py" for stem, names in groups for name in names.split(",")}
    on_s3 = {path.name for path in (documented.ROOT / "tests/faults").glob("test_s3*.py")} - {"test_s3_train.py"}
    assert files == on_s3 | {"test_nodes.py", "test_autoscaling.py", "test_lost.py"}


def test_the_hubs_command_line_takes_these_options():
    (command,) = [c for page in documented.PAGES for c in documented.of_page(page) if c[0].endswith("hf")]
    with redirect_stdout(StringIO()) as told:
        hub.main([command[1], "--help"], standalone_mode=False)
    options = [word for word in command if word.startswith("--")]
    assert options
    assert all(option in told.getvalue() for option in options)


def test_what_is_mapped_is_documented_and_tested():
    shown = [" ".join(command) for page in documented.PAGES for command in documented.of_page(page)]
    assert [beginning for beginning in ELSEWHERE if not any(told.startswith(beginning) for told in shown)] == []
    for test in ELSEWHERE.values():
        file, _, name = test.partition("::")
        tree = ast.parse((documented.ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{test} is gone"


@pytest.mark.parametrize("shown", ["python jobs/mine.py", "rm -r runs", "make mine &&", "$NOT_SET/run"])
def test_a_block_that_calls_what_is_not_there_is_found(shown):
    with pytest.raises(ValueError, match="in the documented commands"):
        documented.commands(shown)


@pytest.mark.parametrize("shown", ["make all", ".venv/bin/python tools/mine.py", ".venv/bin/ray stop"])
def test_a_command_that_no_test_runs_is_found(shown):
    (command,) = documented.commands(shown)
    with pytest.raises(pytest.fail.Exception, match="neither run here nor tested elsewhere"):
        run(command)


@pytest.mark.parametrize("shown", ["jobs/why.py [--html FILE]", "jobs/mine.py [runs.dir=DIR]"])
def test_a_usage_line_that_the_help_does_not_tell_is_found(shown):
    (command,) = documented.commands(f"{PYTHON} {shown}")
    with pytest.raises(AssertionError, match="knows no"):
        run(command)


def test_loops_continued_lines_comments_and_quotes_are_read_as_a_shell_reads_them():
    text = """
export KEY=...
for n in 1 2; do
  KEY=x make mine \\
      n=$n "a=$NEMO/b c"  # why
done
"""
    expected = [("make", "mine", f"n={n}", "a=/nemo/b c") for n in (1, 2)]
    assert documented.commands(text, NEMO="/nemo") == expected
