"""Ask every node, before any work, whether it sees what the job works with.

Tables on a disk that a node does not share would be looked for, and made, in vain for ever; media that it does not see
would be missing clip by clip. A node that comes later is not asked here: its workers look by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError
from mer_ray.runtime.materialise import Step
from mer_ray.runtime.sight import Sight, leave_probe, not_seen, of_stage

_LONGEST_SECONDS = 300.0
"""What a node may take to start a process and look; one that is slower is left to its workers."""
_NAMED = 5


def ask(steps: Sequence[Step], run_dir: Store, tables: Store) -> Sight:
    """What the workers of ``steps`` are to see, once all nodes that are there have seen it.

    Where Ray does not run, or is embedded in this process and so has one node for ever, nothing is asked or left.

    Args:
        steps: what will be made.
        run_dir: the run directory, which gets a probe.
        tables: the folder of the tables, which gets one too.

    Raises:
        ConfigError: a node does not see something; the message names nodes, path and what to set.
        StorageError: a probe cannot be left.
    """
    if not ray.is_initialized():
        return Sight()
    there = [node for node in ray.nodes() if node["Alive"]]
    if len(there) == 1 and not os.environ.get("RAY_ADDRESS"):
        return Sight()
    shared = (leave_probe(run_dir, "run.dir"), leave_probe(tables, "tables.dir"))
    sight = Sight(shared, {step.stage.name: of_stage(step.stage, step.clips.values()) for step in steps})
    faults: dict[str, list[str]] = {}
    for host, told in _answers(there, steps, sight):
        for fault in told:
            faults.setdefault(fault, []).append(host)
    if faults:
        lines = [f"{_named(hosts)}: {fault}" for fault, hosts in faults.items()]
        raise ConfigError("\n".join(["not every node sees what the job works with; nothing is made yet", *lines]))
    return sight


def _answers(
    there: Iterable[Mapping[str, Any]], steps: Sequence[Step], sight: Sight
) -> Iterable[tuple[str, Sequence[str]]]:
    """Each node's name, and what it does not see. A node that is lost meanwhile has nothing to say."""
    look, asked = ray.remote(num_cpus=0, max_retries=0)(not_seen), {}
    for node in there:
        places = sight.places(step.stage.name for step in steps if _fits(step, node["Resources"]))
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        looked = look.options(scheduling_strategy=where).remote(places)
        asked[looked] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LONGEST_SECONDS)
    for looked in answered:
        try:
            yield asked[looked], ray.get(looked)
        except RayTaskError as error:  # looking raises nothing: the code is not there, or is another
            why = str(error).strip().splitlines()[-1]
            yield asked[looked], [f"it cannot run this job ({why}): install the same mer_ray there as here"]
        except RayError:
            continue


def _fits(step: Step, has: Mapping[str, float]) -> bool:
    """Whether a node of these resources can have a worker of the step."""
    needs = step.stage.resources
    return has.get("CPU", 0) >= needs.cpus and has.get("GPU", 0) >= needs.gpus


def _named(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
    return f"node {', '.join(hosts[:_NAMED])}{more}"
