"""A driver that makes tables in S3, each on a line of its standard input, with one Ray for all of them.

A line is JSON: ``root`` (address of the tables), ``marks`` (a local folder), ``texts`` by clip, and ``step``, which is
``length``, or ``double``, which reads what this driver has made before of ``length`` there. The answer is a line of
JSON: ``rows_made``, ``rows`` and ``errors``, or ``fault``.
"""

import json
import sys
from pathlib import Path

from made_stages import DoubleStage
from made_steps import step_of

from mer_ray.config import RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import MachineFault
from mer_ray.runtime import materialise as materialising
from mer_ray.runtime.materialise import Made, Step, materialise
from mer_ray.runtime.session import session
from mer_ray.stages.base import Resources

materialising._FIRST_WAIT_SECONDS = 0.1
RUNTIME = RuntimeConfig(num_cpus=2, object_store_bytes=100 * 2**20, max_machine_faults=1)


def steps_of(root: str, marks: str, texts: dict[str, str]) -> dict[str, Step]:
    length, stage = step_of(Path(marks), texts, Store(root)), DoubleStage()
    stage.resources = Resources(batch_size=3, clip_seconds=2.0)  # less than a slow answer takes
    table = Table(Store(root), stage.name, stage.schema, stage.spec, [length.table])
    keys = {clip_id: row_key(clip_id, key) for clip_id, key in length.keys.items()}
    return {"length": length, "double": Step(stage, table, keys, length.clips)}


def make(told: dict, made: dict[str, Made]) -> dict:
    """Do as a line tells; what is made is kept in ``made``, by root."""
    step = steps_of(told["root"], told["marks"], told["texts"])[told["step"]]
    upstream = {"length": made[told["root"]]} if told["step"] == "double" else {}
    try:
        done = materialise(step, upstream, RUNTIME)
    except MachineFault as fault:
        return {"fault": str(fault)}
    if not upstream:
        made[told["root"]] = done
    return {"rows_made": done.rows_made, "rows": len(done.refs), "errors": dict(done.errors)}


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray tells of its workers there
    made: dict[str, Made] = {}
    with session(RUNTIME):
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(make(json.loads(line), made)), file=answers, flush=True)
