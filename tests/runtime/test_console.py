import io
import time

import pytest
from rich.console import Console

from mer_ray.runtime import console
from mer_ray.runtime.console import step_line, waiting


@pytest.fixture
def out(monkeypatch):
    monkeypatch.setattr(console, "_SILENT_SECONDS", 0.3)
    return io.StringIO()


def test_a_step_that_says_nothing_is_said_to_go_on_from_time_to_time(out):
    with step_line(Console(file=out), "mining", "fits") as line:
        line.update(1, 4, "round 0: 1 of 4 fits")
        time.sleep(1.0)
    lines = out.getvalue().splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("mining: 1/4 round 0: 1 of 4 fits (") for line in lines)
    time.sleep(0.4)
    assert out.getvalue().splitlines() == lines


def test_a_step_that_speaks_is_not_spoken_for(out, monkeypatch):
    monkeypatch.setattr(console, "_PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(console, "_SILENT_SECONDS", 60.0)
    with step_line(Console(file=out), "explain") as line:
        line.note("clip 1")
        line.update(1, 2)
        line.update(2, 2)
    assert out.getvalue().startswith("explain: clip 1\n")
    assert "so far" not in out.getvalue()


def test_lines_are_few_where_nobody_watches(out, monkeypatch):
    monkeypatch.setattr(console, "_SILENT_SECONDS", 60.0)
    with step_line(Console(file=out), "mining", "fits") as line:
        for done in range(100):
            line.update(done, 200)
            line.note("more")
    assert out.getvalue() == ""


def test_what_tells_nothing_of_itself_is_said_to_go_on(out):
    with waiting(Console(file=out), "starting"):
        time.sleep(0.7)
    assert out.getvalue().startswith("starting: (0 s so far)\n")


def test_on_a_terminal_the_line_goes_with_what_it_tells_of(out):
    with waiting(Console(file=out, force_terminal=True), "starting"):
        time.sleep(0.3)
    assert "starting" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")
