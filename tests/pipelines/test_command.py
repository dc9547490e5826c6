"""The command line that all jobs share."""

import subprocess
import sys
from pathlib import Path

import pytest

from mer_ray.config import WhyConfig
from mer_ray.pipelines import command

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
