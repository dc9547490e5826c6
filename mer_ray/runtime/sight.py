"""What work must see wherever it runs: the job's folders, the clips' media, weights on a disk. No Ray in here.

A folder on a node's own disk is there like a shared one, and empty. So a shared one is known by a file in it that
nobody else can have made: the probe.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault, machine_fault
from mer_ray.stages.base import Stage
from mer_ray.types import Clip

PROBE = "_probe"
"""Made by the first job that uses a folder, and never changed or removed: of many jobs there is one."""

_MEDIA = (
    "put the clips' media at this path on every node, or into a bucket that every node may read, and give "
    "data.manifest and data.media_root (of the demo, data.demo.dir; of a layout, data.root)"
)


@dataclass(frozen=True)
class Place:
    """A file or folder that work reads or writes.

    Attributes:
        path: path or ``s3://`` address.
        remedy: what to set where it is not seen.
        token: what the file must hold; None: anything.
    """

    path: str
    remedy: str
    token: str | None = None

    def fault(self) -> str | None:
        """Why it is not seen from here, as far as that can be told; None where it is."""
        folder, name = os.path.split(self.path)
        store = Store(folder)
        try:
            if self.token is not None:
                return None if store.read(name).decode() == self.token else "it is another folder of this name"
            if store.is_local:
                os.stat(self.path)
            else:
                store.size(name)
        except FileNotFoundError:
            return "nothing is there" if self.token is None else "what the driver left there is not there"
        except (OSError, MachineFault) as error:
            return str(machine_fault(error) or error)
        return None


@dataclass(frozen=True)
class Sight:
    """What each step of a job works with; pickles, for workers to look by themselves.

    Attributes:
        shared: what every node sees.
        steps: what the workers of a step see, by its name.
    """

    shared: tuple[Place, ...] = ()
    steps: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)

    def places(self, steps: Iterable[str]) -> tuple[Place, ...]:
        """What work on these steps needs, each once."""
        return tuple(dict.fromkeys([*self.shared, *(place for step in steps for place in self.steps.get(step, ()))]))

    def look(self, step: str) -> None:
        """See all that work on ``step`` needs.

        Raises:
            MachineFault: something is not seen from here, which the driver saw.
        """
        if faults := not_seen(self.places([step])):
            raise MachineFault("; ".join(faults))


def not_seen(places: Iterable[Place]) -> list[str]:
    """What is not seen from here, why, and what to set: one sentence for each."""
    return [f"{place.path} is not seen there ({why}): {place.remedy}" for place in places if (why := place.fault())]


def leave_probe(folder: Store, key: str) -> Place:
    """Put the probe into a folder, unless one is there; ``key`` is what names the folder in a config.

    Raises:
        StorageError: the folder cannot be written or read.
    """
    folder.put_if_absent(PROBE, uuid.uuid4().hex.encode())
    remedy = f"set {key} to a folder that all nodes share at this path, or to one in a bucket, s3://..."
    return Place(folder.path(PROBE), remedy, folder.read(PROBE).decode())


def of_stage(stage: Stage, clips: Iterable[Clip]) -> tuple[Place, ...]:
    """What the workers of a stage need: what its plug-ins name on this machine's disk, and the file of some clip."""
    named = f"step {stage.name} reads it: put it at this path on every node that is large enough for the step, or name"
    places = [Place(path, f"{named} a copy in a bucket, s3://...") for path in dict.fromkeys(_named_here(stage))]
    media = next((uri for clip in clips for uri in clip.seen), None) if stage.opens_media else None
    return (*places, *([Place(media, _MEDIA)] if media else []))


def _named_here(holder: object) -> Iterator[str]:
    """Every whole path of something on this machine that the configuration in an object names."""
    if isinstance(holder, str):
        if os.path.isabs(holder) and os.path.exists(holder):
            yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from _named_here(value)
    elif isinstance(holder, list | tuple):
        for value in holder:
            yield from _named_here(value)
    elif type(holder).__module__.partition(".")[0] == __name__.partition(".")[0]:
        yield from _named_here(getattr(holder, "__dict__", {}))
