"""What is skipped where nothing may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_run():
    pass

@pytest.fixture
def server():
    pytest.skip("needs a server")

def test_skipped(server):
    pass
"""


@pytest.mark.parametrize(("told", "code"), [({}, 0), ({"MER_RAY_TEST_ALL": "1"}, 1)], ids=["anywhere", "in CI"])
def test_a_skipped_test_is_a_failed_one_where_all_are_to_run(told, code, tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name != "MER_RAY_TEST_ALL"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"],
        env={**environment, **told, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("needs a server" in done.stdout) is bool(code)
