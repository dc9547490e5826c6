"""Real Ray, real kills. Each test asserts that its fault happened."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_steps import rows_of, step_of, tries

from mer_ray.config import RuntimeConfig
from mer_ray.errors import MaterialiseError
from mer_ray.runtime.materialise import materialise

pytestmark = pytest.mark.faults


def test_rows_are_made_once_and_only_changed_clips_again(ray_cluster, tmp_path):
    texts = {f"c{i}": "x" * i for i in range(10)}
    assert materialise(step_of(tmp_path, texts), {}, RuntimeConfig()).rows_made == 10
    assert materialise(step_of(tmp_path, texts), {}, RuntimeConfig()).rows_made == 0
    changed = {**texts, "c3": "changed", "new": "n"}
    del changed["c5"]
    made = materialise(step_of(tmp_path, changed), {}, RuntimeConfig())
    assert made.rows_made == 2
    assert sorted(made.refs) == sorted(changed)
    assert [tries(tmp_path, c) for c in ("c3", "c4", "c5", "new")] == [2, 1, 1, 1]


def test_poison_clips_are_quarantined_and_the_others_finish(ray_cluster, tmp_path):
    texts = {f"c{i}": "x" * i for i in range(12)}
    texts |= {"c3": "die", "c7": "raise", "c9": "die once"}
    step = step_of(tmp_path, texts)
    made = materialise(step, {}, RuntimeConfig())
    rows = rows_of(step)
    assert rows["c3"]["error"] == "crashed"
    assert rows["c7"]["error"] == "failed"
    assert "the model fell over" in rows["c7"]["detail"]
    assert (tmp_path / "marks" / "c9.died").exists(), "the one-time death did not happen"
    assert rows["c9"]["error"] is None
    assert {c: r["letters"] for c, r in rows.items() if r["present"]} == {
        c: len(t) for c, t in texts.items() if c not in {"c3", "c7"}
    }
    assert dict(made.errors) == {"crashed": 1, "failed": 1}
    assert tries(tmp_path, "c3") >= 3, "the poison clip did not kill its worker again and again"
    assert step.table.store.folders("_attempts") == [], "records outlived their step"


def test_a_hanging_clip_is_cut_off(ray_cluster, tmp_path):
    step = step_of(tmp_path, {"a": "x", "b": "hang"}, batch_size=1, clip_seconds=2.0)
    materialise(step, {}, RuntimeConfig())
    rows = rows_of(step)
    assert rows["b"]["error"] == "timeout"
    assert tries(tmp_path, "b") == 2
    assert rows["a"]["letters"] == 1


def test_a_killed_worker_loses_and_doubles_nothing(ray_cluster, tmp_path):
    texts = {f"c{i}": "await kill" if i == 13 else "sleep 0.1" for i in range(24)}
    step = step_of(tmp_path, texts)
    waiting = tmp_path / "marks" / "c13.pid"
    killed = []

    def kill_the_waiting_one():
        deadline = time.time() + 60
        while time.time() < deadline and not killed:
            if waiting.exists():
                killed.append(int(waiting.read_text()))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.05)

    killer = threading.Thread(target=kill_the_waiting_one)
    killer.start()
    materialise(step, {}, RuntimeConfig())
    killer.join()
    assert killed, "no worker was killed"
    rows = rows_of(step)
    assert sorted(rows) == sorted(texts)
    assert {clip_id: row["letters"] for clip_id, row in rows.items()} == {c: len(t) for c, t in texts.items()}
    assert tries(tmp_path, "c13") == 2, "the clip that its worker died over was not tried again"


def test_a_step_without_progress_fails_and_says_so(ray_cluster, tmp_path):
    step = step_of(tmp_path, {"a": "sleep 30"})
    with pytest.raises(MaterialiseError, match="no batch was finished"):
        materialise(step, {}, RuntimeConfig(stall_seconds=2.0))


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import made_stages
from ray import cloudpickle
cloudpickle.register_pickle_by_value(made_stages)
from made_steps import step_of
from mer_ray.config import RuntimeConfig
from mer_ray.runtime.materialise import materialise
from mer_ray.runtime.session import session
texts = {{f"c{{i}}": "sleep 0.25" for i in range(24)}}
with session(RuntimeConfig(num_cpus=2, object_store_bytes=100 * 2**20)):
    materialise(step_of(Path({root!r}), texts, batch_size=2), {{}}, RuntimeConfig())
"""


@pytest.mark.slow
def test_a_killed_driver_continues_with_nothing_lost_or_doubled(tmp_path):
    script = DRIVER.format(tests=str(Path(__file__).parent.parent), root=str(tmp_path))
    step = step_of(tmp_path, {f"c{i}": "sleep 0.25" for i in range(24)}, batch_size=2)
    kills = 0
    for parts_before_kill in (1, 5):
        driver = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        while driver.poll() is None and len([f for f in step.table.store.files() if f[0] != "_"]) < parts_before_kill:
            time.sleep(0.05)
        assert driver.poll() is None, "the driver ended before it could be killed"
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        kills += 1
    assert kills == 2
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    rows = rows_of(step)
    assert sorted(rows) == sorted(f"c{i}" for i in range(24))
    assert all(row["letters"] == 10 for row in rows.values())
