"""One visit to a clip's media for every table that is made of them: each file is fetched, opened and read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.data.media import Frames
from mer_ray.errors import ClipError
from mer_ray.stages.base import Resources, Stage
from mer_ray.stages.decode import audible, decoder, reading
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.inputs import as_prepared, as_sound
from mer_ray.stages.isolate import attempt
from mer_ray.stages.limit import one_by_one

Sound = NDArray[np.float32]
Row = dict[str, Any]


class MediaVisit:
    """Makes the rows of the ``audio`` and the ``faces`` table together, the same that their stages make alone.

    Like a stage it prepares a batch on a CPU, and processes it where the models are: faces are found while it is
    prepared, and only their crops travel on, beside the sound that is to be denoised.

    Args:
        audio, faces: stages with the same limits of decoding.

    Attributes:
        name: as of a stage.
        stages: by the names of their tables.
        reads: as of a stage.
        resources: of a worker that processes batches; see ``_shared``.
    """

    name = "media"
    reads = ("clip",)

    def __init__(self, audio: DenoiseStage, faces: FacesStage) -> None:
        assert audio.media == faces.media, "one decoder reads for both"
        self.audio = audio
        self.faces = faces
        self.stages: dict[str, Stage] = {audio.name: audio, faces.name: faces}
        self.resources = _shared(audio.resources, faces.resources)
        self._can_detect = False

    def setup(self) -> None:
        """Load what ``process`` needs; called once per actor before the first batch."""
        self.audio.setup()

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Visit the clips, one after the other; their frames are let go of before the next.

        Args:
            batch: ``clip_id``, ``clip`` and, where not every table lacks every clip, ``wanted``: of each clip the
                names of the tables whose rows are to be made, list of strings.

        Returns:
            ``clip_id``, ``wanted``, ``prepared`` (see ``DenoiseStage.prepare``) and ``faces``: a struct, the finished
            row. What is not wanted is null.

        Raises:
            MachineFault: no clip is to blame, see ``errors.machine_fault``.
        """
        if not self._can_detect:
            self.faces.setup()
            self._can_detect = True
        clips = batch.column("clip").to_pylist()
        wanted = batch.column("wanted").to_pylist() if "wanted" in batch.column_names else [[*self.stages]] * len(clips)
        sounds, rows = [], []
        for clip, names in one_by_one(zip(clips, wanted, strict=True)):
            sound, row = self._visit(clip, names)
            sounds.append(as_sound(sound))
            rows.append(row)
        return pa.table(
            {
                "clip_id": batch.column("clip_id"),
                "wanted": pa.array(wanted, pa.list_(pa.string())),
                "prepared": as_prepared(sounds),
                "faces": pa.array(rows, pa.struct(list(self.faces.schema))),
            }
        )

    def process(self, prepared: pa.Table) -> dict[str, pa.Table]:
        """The rows by table, each in its stage's schema: of the clips that want one there, in the order given.

        Args:
            prepared: what ``prepare`` returned.

        Raises:
            Exception: as ``DenoiseStage.process``.
        """
        given = {name: _wanting(name, prepared) for name in self.stages}
        faces = given[self.faces.name].column("faces").combine_chunks()
        return {
            self.audio.name: self.audio.process(given[self.audio.name]),
            self.faces.name: pa.Table.from_arrays(faces.flatten(), schema=self.faces.schema),
        }

    def _visit(self, clip: Mapping[str, Any], wanted: Sequence[str]) -> tuple[Sound | ClipError | None, Row | None]:
        """The sound of a clip and its row of faces."""
        hears, sees = self.audio.name in wanted, self.faces.name in wanted
        if hears and sees and _is_one_file(clip):
            read = attempt(self._read, clip)
            samples, frames = (read, read) if isinstance(read, ClipError) else read
            found = frames if isinstance(frames, ClipError) else attempt(self.faces.search, frames)
            sound = samples if isinstance(samples, ClipError) else attempt(partial(self.audio.in_noise, clip), samples)
        else:
            found = attempt(self.faces.find, clip) if sees else None
            sound = attempt(self.audio.sound, clip) if hears else None
        return sound, self.faces.row(clip["clip_id"], found) if sees else None

    def _read(self, clip: Mapping[str, Any]) -> tuple[Sound | ClipError | None, Frames | ClipError | None]:
        uri, faces = clip["video"], self.faces.faces
        with reading(clip, uri):
            samples, frames = decoder(self.faces.media).audio_and_frames(
                uri, faces.fps, faces.max_frames, clip.get("media_root")
            )
        return samples if isinstance(samples, ClipError) else audible(samples), frames


def _is_one_file(clip: Mapping[str, Any]) -> bool:
    """Whether the clip's video is read for its sound and for its faces."""
    return bool(clip["video"]) and not clip["faces"] and clip["audio"] in (None, "", clip["video"])


def _wanting(name: str, prepared: pa.Table) -> pa.Table:
    """The clips that want a row in the table of this name."""
    return prepared.filter(pa.array([name in names for names in prepared.column("wanted").to_pylist()], pa.bool_()))


def _shared(audio: Resources, faces: Resources) -> Resources:
    """What a worker of both needs.

    Where sounds are denoised on GPUs, clips are visited by tasks that feed the workers, which then need what denoising
    needs. Else a worker does both, one after the other: it has the memory for both, and there are as many as either
    may have. A clip may take as long as both may.
    """
    seconds = audio.clip_seconds + faces.clip_seconds
    if audio.gpus:
        return replace(audio, clip_seconds=seconds)
    memory = [told.memory_bytes for told in (audio, faces) if told.memory_bytes]
    most = min((told.max_actors for told in (audio, faces) if told.max_actors), default=None)
    least = max(audio.min_actors, faces.min_actors)
    return Resources(
        cpus=max(audio.cpus, faces.cpus),
        gpus=faces.gpus,
        memory_bytes=sum(memory) or None,
        min_actors=least if most is None else min(least, most),
        max_actors=most,
        batch_size=min(audio.batch_size, faces.batch_size),
        clip_seconds=seconds,
    )
