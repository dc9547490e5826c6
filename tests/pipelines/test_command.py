"""The command line that all jobs share."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import made_job
import psutil
import pytest
from killing import wait_for

from mer_ray.config import WhyConfig
from mer_ray.errors import MaterialiseError
from mer_ray.pipelines import command
from mer_ray.runtime import console

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["run.dri=runs/demo"], 2)])
def test_help_and_a_misspelt_key_do_not_wait_for_what_the_job_needs(arguments, code):
    told_to_tell = [sys.executable, "-X", "importtime"]
    done = subprocess.run(
        [*told_to_tell, JOBS / "mine.py", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mer_ray.config" in imported
    assert imported.isdisjoint({"torch", "ray", "mer_ray.pipelines.mine"})


@pytest.mark.parametrize(("texts", "told"), [(["clip"], "to a finished run"), ([], "clip")])
def test_an_id_is_text_even_where_yaml_reads_a_number(tmp_path, capsys, texts, told):
    code = command.main(
        job="why", about="", model=WhyConfig, texts=texts, arguments=[f"run.dir={tmp_path}", "clip=007"]
    )
    assert code == 2
    error = capsys.readouterr().err
    assert told in error
    assert ("valid string" in error) == (not texts)


def test_what_a_job_needs_is_not_waited_for_in_silence(monkeypatch, capsys):
    def slow(name):
        time.sleep(0.7)
        return SimpleNamespace(run=lambda settings, dry_run: 0)

    monkeypatch.setattr(console, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(command, "import_module", slow)
    assert command.main(job="why", about="", model=WhyConfig, arguments=[]) == 0
    assert capsys.readouterr().out.startswith("starting: (")


def asked_to_stop(monkeypatch, act):
    """The exit code of a job that does no more than ``act``."""
    monkeypatch.setattr(command, "_pipeline", lambda job: SimpleNamespace(run=lambda settings, dry_run: act()))
    return command.main(job="why", about="", model=WhyConfig, arguments=[])


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(10)


def wrapped(number):
    try:
        send(number)
    except KeyboardInterrupt:
        raise MaterialiseError("a worker fell over") from None


def twice(number):
    try:
        send(number)
    finally:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("act", [send, wrapped, twice])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_asked_to_stop_says_so_in_one_line(number, code, act, monkeypatch, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert asked_to_stop(monkeypatch, lambda: act(number)) == code
    assert capsys.readouterr().err == "stopped; the same command continues\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_that_no_signal_brought_is_told_as_one(monkeypatch, capsys):
    def fail():
        raise RuntimeError("the disk [sda] is gone")

    assert asked_to_stop(monkeypatch, fail) == 1
    assert capsys.readouterr().err.endswith("failed: RuntimeError: the disk [sda] is gone\n")


def test_ray_leaving_as_it_starts_is_a_stop(monkeypatch):
    assert asked_to_stop(monkeypatch, lambda: sys.exit(1)) == 143


def test_a_job_in_another_thread_leaves_signals_alone(monkeypatch):
    before, codes = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: codes.append(asked_to_stop(monkeypatch, lambda: 0)))
    thread.start()
    thread.join()
    assert (codes, signal.getsignal(signal.SIGTERM)) == ([0], before)


@pytest.fixture
def clips(tmp_path):
    """A folder with a manifest of clips of text."""
    rows = [
        f"c{i},a {('cross', 'glad')[i % 2]} word {i},{('anger', 'joy')[i % 2] if i < 30 else ''}" for i in range(60)
    ]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,text,label", *rows]))
    return tmp_path


def start(clips, *arguments):
    """The job as a shell starts it: with what it starts, a process group of its own."""
    given = ["data.manifest=clips.csv", "run.dir=run", "encoders={words: {plugin: ngrams}}", "faces.enabled=false"]
    script = [sys.executable, JOBS / "mine.py", "--config", "features.yaml", *given, *made_job.QUICK, *arguments]
    return subprocess.Popen(script, cwd=clips, stdout=-1, stderr=-1, text=True, start_new_session=True)


def stop(job, number, whole_group):
    """Send the signal; what the job printed, once nothing of it is left."""
    working = psutil.Process(job.pid).children(recursive=True)
    (os.killpg if whole_group else os.kill)(job.pid, number)
    printed = "".join(job.communicate(timeout=120))
    _, alive = psutil.wait_procs(working, timeout=150)  # Ray's agents look for their parent now and then
    assert not alive, f"they outlive the job: {alive}"
    assert "Traceback" not in printed
    assert printed.splitlines()[-1] == "stopped; the same command continues"


def test_ctrl_c_ends_a_job_whose_ray_is_at_work(clips):
    job = start(clips)
    wait_for(job, lambda: (clips / "run/events.jsonl").exists() and "step_started" in read(clips))
    stop(job, signal.SIGINT, whole_group=True)
    assert job.returncode == 130


@pytest.mark.slow
def test_a_job_stopped_as_it_mines_is_continued(clips):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        job = start(clips, "fit.epochs=5000")
        wait_for(job, lambda: (clips / "run/rounds").exists() and '"step": "words", "seconds"' in read(clips))
        time.sleep(3)
        stop(job, number, whole_group=number == signal.SIGINT)
        assert job.returncode == code
    assert start(clips).wait(timeout=300) == 0


def read(clips):
    return (clips / "run/events.jsonl").read_text()
