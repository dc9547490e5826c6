"""The sections of a config that say how clips become features, and by how many workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mer_ray.config.sections import PluginConfig, Section
from mer_ray.types import MER2024


class MediaConfig(Section):
    """Limits probed before decoding."""

    max_seconds: float = Field(300.0, gt=0, description="longest clip admitted, seconds")
    max_bytes: int = Field(2 * 2**30, gt=0, description="largest file admitted")
    max_pixels: int = Field(4096 * 4096, gt=0, description="largest frame admitted, width x height")
    max_frames_per_second: float = Field(240.0, gt=0, description="highest frame rate admitted")
    decode_seconds: float = Field(60.0, gt=0, description="time limit for decoding one clip")
    decode_memory_bytes: int = Field(2 * 2**30, gt=0, description="memory limit of the decoder's process")


class Pool(Section):
    """Of a step's workers."""

    actors: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = (
        Field(None, description="workers, or [least, most]; default all that fit, now or when the cluster has grown")
    )
    memory_bytes: int | None = Field(None, ge=1, description="host memory that a worker needs, by which Ray places it")

    @field_validator("actors")
    @classmethod
    def _least_first(cls, actors: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(actors, tuple) and actors[0] > actors[1]:
            raise ValueError(f"[{actors[0]}, {actors[1]}]: the least comes first")
        return actors

    @property
    def bounds(self) -> tuple[int, int | None]:
        """Least and most workers; None: as many as there is work for."""
        if self.actors is None:
            return 1, None
        return self.actors if isinstance(self.actors, tuple) else (self.actors, self.actors)


class Workers(Pool):
    """Of a step whose workers are told what they take."""

    cpus: float = Field(1.0, gt=0, description="CPUs per worker")
    gpus: float = Field(0.0, ge=0, description="GPUs per worker")


class FacesConfig(Pool):
    """Which faces are found in videos."""

    enabled: bool = Field(True, description="find faces in videos")
    detector: PluginConfig = Field(PluginConfig(name="haar"), description="face detector")
    fps: float = Field(5.0, gt=0, le=60, description="frames per second of the face track")
    size: int = Field(112, ge=32, le=512, description="side of the square crops, pixels")
    max_frames: int = Field(150, ge=1, description="frames kept of a long clip, evenly spaced")


class DenoiseConfig(Workers):
    """How noisy voices are separated (P1 section 2.4)."""

    enabled: bool | Literal["auto"] = Field(
        False,
        description="separate noisy voices and keep what the recogniser understands better; auto: where there is one",
    )
    separator: PluginConfig = Field(
        PluginConfig(name="spectral"), description="source separator; auto: the best that is installed"
    )
    recogniser: PluginConfig = Field(
        PluginConfig(name="templates"), description="recogniser that judges the streams; auto: that of transcribe"
    )
    threshold: float = Field(0.1, ge=0, le=1, description="similarity gap above which a stream replaces the original")
    batch_size: int = Field(16, ge=1, description="clips per batch and Parquet part")


class TranscribeConfig(Workers):
    """How what is said is recognised, where no text is given."""

    enabled: bool | Literal["auto"] = Field(
        False, description="transcribe clips that have no text; auto: where there is a recogniser"
    )
    recogniser: PluginConfig = Field(
        PluginConfig(name="templates"),
        description="speech recogniser; auto: Whisper weights of the local hub folder, or of an installed package",
    )
    punctuator: PluginConfig = Field(PluginConfig(name="none"), description="of what is recognised without marks")
    hears: Literal["original", "chosen", "better"] | None = Field(
        None,
        description="of denoised clips: original | chosen, the denoised | better, the surer transcript of both; unset: "
        "what the recogniser understands best",
    )
    batch_size: int = Field(64, ge=1, description="clips per batch and Parquet part")
    max_characters: int = Field(4000, ge=1, description="longer transcripts are truncated, and that is recorded")


class HintConfig(Workers):
    """A language model's ranking of the classes by the transcript alone, for text encoders to read (P3 section 3.4)."""

    endpoint: str | None = Field(None, description="address of an OpenAI-compatible server, e.g. http://host:8000/v1")
    model: str = Field("", description="name of the model at the endpoint")
    key: str = Field(
        "OPENAI_API_KEY", description="environment variable that holds the endpoint's key, if it wants one"
    )
    weights: dict[str, Any] | None = Field(
        None, description="instead of an endpoint, a causal language model on this machine: source, revision"
    )
    classes: list[str] = Field(list(MER2024.names), min_length=2, description="what is ranked")
    prompt: str = Field(
        "Someone says: {text}\nWhich of these emotions do they feel: {classes}? Rank all, the most likely first, "
        "separated by commas. Answer with the list alone.",
        description="what the model is asked, with the places of the transcript and the classes",
    )
    max_tokens: int = Field(96, ge=1, description="most tokens of an answer")
    at_once: int = Field(8, ge=1, description="requests to the endpoint, or texts of one forward, at a time")


class EncoderConfig(Workers):
    """One feature: an encoder, and how its frames become a vector."""

    plugin: str = Field(description="encoder plug-in")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the plug-in's Config")
    pooling: Literal["mean", "mean_std"] | list[Literal["mean", "mean_std"]] = Field(
        "mean", description="frames to one vector: mean | mean_std | a list of them, the first for the learners"
    )
    sequences: Literal["float16", "float32"] | None = Field(None, description="also keep the frames, in this type")
    hint: str | None = Field(
        None, description="of a text encoder: its text with the places {hint} and {text}, see the section hint (P3)"
    )
    hears: Literal["original", "chosen"] = Field(
        "chosen", description="of denoised clips: the sound as it was | the denoised one"
    )
    batch_size: int | None = Field(
        None, ge=1, description="clips per batch and Parquet part; default 16, 64 for an encoder with weights"
    )

    @property
    def poolings(self) -> tuple[Literal["mean", "mean_std"], ...]:
        """``pooling`` as a list without repeats."""
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(dict.fromkeys(self.pooling))
