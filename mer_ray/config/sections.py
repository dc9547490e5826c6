"""The sections of a config: frozen models, one per component, where an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mer_ray.config.addresses import INSTEAD, refused
from mer_ray.errors import ConfigError, Reason


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobConfig(Section):
    """Base of what a job can be told.

    Jobs may share a file: a section that another job alone knows is passed over in it.
    """

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        if keys := list(refused(self.model_dump())):
            raise ConfigError(f"{', '.join(keys)}: {INSTEAD}")
        return self


class PluginConfig(Section):
    """A plug-in by name, with its own options; a name alone is a plug-in without any."""

    name: str = Field(description="file name of the plug-in in its kind's folder")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the plug-in's Config")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        return {"name": given} if isinstance(given, str) else given


class TaskConfig(PluginConfig):
    """The training task: a plug-in that must be named, for there is no task to fall back on."""

    name: str = Field("", description="training task: a file in mer_ray/tasks; docs/training.md")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the task's Config")


class RunConfig(Section):
    dir: str = Field("runs/demo", description="run directory, local or s3://")


class TablesConfig(Section):
    dir: str | None = Field(None, description="where tables are kept, may be shared by runs; default <run.dir>/tables")
    retry_errors: list[Reason] | Literal["all"] = Field(
        [],
        exclude=True,  # it is of the command, not of the run, and no digest knows it
        description="reasons, or all: rows in error for one of them are made anew by this command, and what reads them",
    )


class DemoConfig(Section):
    """The embedded demo: synthetic talking faces."""

    num_clips: int = Field(600, ge=30, description="clips to make")
    labelled: float = Field(0.08, gt=0, lt=1, description="share of the clips that are labelled for training")
    seed: int | None = Field(None, description="seed of the clips; default: the job's seed")
    dir: str | None = Field(None, description="where the clips are made; default <run.dir>/clips")


class DataConfig(Section):
    layout: Literal["demo", "manifest", "mertools", "chsims"] = Field(
        "demo", description="demo | manifest | mertools | chsims (also MOSI)"
    )
    manifest: str | None = Field(None, description="CSV or Parquet manifest, local or s3://")
    media_root: str | None = Field(None, description="folder that URIs are relative to; default the manifest's folder")
    root: str | None = Field(None, description="folder of a MER2024/MERTools or CH-SIMS/MOSI layout")
    features: str | None = Field(None, description="folder of ready features, <encoder>.parquet or <encoder>.npz")
    modalities: dict[str, str] = Field(default_factory=dict, description="modality of each ready feature by its name")
    demo: DemoConfig = DemoConfig()


class FitConfig(Section):
    """How one learner is fitted (P3 section 4.2, where it says)."""

    folds: int = Field(5, ge=2, description="folds of the cross-validation; shrinks to what classes and speakers allow")
    epochs: int = Field(40, ge=1, description="epochs of one fit; the learning rate falls to 0 over them by a cosine")
    most_steps: int = Field(
        2500, ge=1, description="steps of one fit at most; a longer epoch takes a part of the clips, drawn anew"
    )
    patience: int = Field(15, ge=1, description="epochs without a better inner score before stopping early")
    inner_share: float = Field(
        0.15, ge=0, lt=1, description="share of a fold's own training part that early stopping watches; 0: no stopping"
    )
    inner_least: int = Field(100, ge=1, description="fewer clips than this cannot rank epochs: the fit runs its length")
    batch_size: int = Field(64, ge=1, description="clips per step")
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate of Adam")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of each label spread over all classes")
    hidden: int = Field(128, ge=1, description="width of the fusion")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout in the fusion (P3: 0.3)")
    modality_dropout: float = Field(0.3, ge=0, lt=1, description="chance that a modality is marked absent (P3: 0.3)")
    balance: Literal["weights", "logits", "none"] = Field(
        "weights", description="rare classes: weighted loss | logit adjustment | left as they are"
    )
    valence: float = Field(
        0.0, ge=0, description="weight of the valence error beside the classes' loss; 0: no such head"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the forward's products")
    memory_bytes: int = Field(
        4 * 2**30, gt=0, description="features larger than this are memory-mapped instead of held in memory"
    )
    standardise: Literal["auto", "fold", "speaker", "voices"] = Field(
        "auto",
        description="by a fold's training clips | each speaker | groups of similar clips | what wins out of fold",
    )
    shrink: float = Field(10.0, ge=0, description="clips of the whole that each speaker's statistics are mixed with")
    final: Literal["all", "folds"] = Field(
        "all",
        description="clips without a label are answered by one more model of each learner, of all labels | "
        "by the mean of the folds' models (the papers)",
    )


class OptimizationConfig(Section):
    """How an encoder is trained."""

    epochs: int = Field(10, ge=1, description="passes over the training clips")
    batch_size: int = Field(32, ge=1, description="clips per step, over all workers and micro-batches")
    micro_batch: int = Field(4, ge=1, description="clips of one forward of one worker")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="torch's; sgd with momentum")
    learning_rate: float = Field(1e-4, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.01, ge=0, description="of every trained parameter")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps over which the learning rate rises")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate behind the warm-up")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradients; 0: not clipped")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of forward and backward")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="what workers share: nothing | optimiser | and gradients | and parameters"
    )
    offload: Literal["none", "optimizer", "parameters"] = Field("none", description="what waits in the host's memory")
    checkpoint_activations: bool = Field(
        False, description="run each layer's forward again in the backward, instead of keeping what it made"
    )
    valid_share: float = Field(
        0.2, ge=0, lt=1, description="share of the labelled clips that is scored, not trained on"
    )
    patience: int = Field(10, ge=1, description="epochs without a better score before stopping early")
    keep: int = Field(2, ge=1, description="newest checkpoints that stay, beside the best")
    workers: int = Field(1, ge=1, description="processes that train together")
    gpus_per_worker: float = Field(0.0, ge=0, description="0: on CPUs")
    cpus_per_worker: float = Field(0.5, gt=0, description="of Ray; some must be left to load clips")
    max_failures: int = Field(3, ge=0, description="lost workers after which the job fails")


class SelfTrainingConfig(Section):
    """Training in rounds, each on what the recogniser of the one before is surest of among clips without a text."""

    rounds: int = Field(0, ge=0, description="most rounds after the first; 0: none. For tasks that train recognisers")
    share: float = Field(0.5, gt=0, le=1, description="of the clips without a text, that is kept: the surest of them")
    learning_rate: float | None = Field(
        None, gt=0, description="highest of the rounds after the first; unset: optimization.learning_rate"
    )


class LearnerConfig(Section):
    name: str = Field(description="the learner's name, also of its folder", pattern=r"^[A-Za-z0-9_-]{1,60}$")
    features: list[str] = Field(min_length=1, description="names of the features it reads")
    model: PluginConfig = Field(
        PluginConfig(name="fusion"), description="what it is: fusion (a network) | lda_em | linear, for few labels"
    )
    fusion: PluginConfig = Field(PluginConfig(name="attention"), description="fusion model of a network")
    teacher: str | None = Field(
        None, description="of a network: a learner of model lda_em, whose answers for the pool it is trained on too"
    )
    teacher_weight: float = Field(0.3, gt=0, description="what a clip counts that the teacher answers for")
    seed: int = Field(0, description="with the job's seed it makes the learner's own")
    top: int | None = Field(
        None, ge=1, description="only so many features of each modality: those that alone tell most, out of fold"
    )


class MiningConfig(Section):
    rounds: int = Field(3, ge=0, description="most rounds after round 0")
    strategy: str = Field(
        "auto",
        description="auto: what labelled clips choose of several ways to learn from the pool | vote (P1): what 3 of 4 "
        "learners agree on | topk (P3): the surest | a plug-in of your own",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="fields of the strategy's Config; split and relabel of every one"
    )
    include_test: bool = Field(False, description="adopt test clips as pseudo-labelled too")
    prior: Literal["none", "labelled", "uniform"] | dict[str, float] = Field(
        "none", description="class shares that the pool's votes are aligned to"
    )
    guard: bool = Field(True, description="stop when the out-of-fold WAF falls beyond its noise, and drop that round")
    on_failure: Literal["refuse", "quorum"] = Field("refuse", description="a failed learner: refuse the round | go on")


class NoiseConfig(Section):
    """One case of the noise track: what the test clips are heard in, once the run is done."""

    snr_db: float = Field(description="power of the clip over that of the noise, in dB", ge=-40, le=80)
    kind: Literal["environment", "babble"] = Field(
        "environment", description="one drawn sound of the folder | four drawn voices of it at once"
    )
    folder: str = Field(description="folder of .wav or .flac files, at any depth", min_length=1)
    name: str = Field(
        "", description="of the case; default: its kind and dB, like environment_10db", pattern=r"^[\w.-]*$"
    )

    @property
    def case(self) -> str:
        """What the case is called."""
        return self.name or f"{self.kind}_{self.snr_db:g}db"


class EvaluationConfig(Section):
    ablations: bool = Field(False, description="also fit each modality alone and the shuffled-label control")
    noise: list[NoiseConfig] = Field(
        default_factory=list,
        description="cases to predict the test clips in, with and without denoising; docs/denoising.md",
    )

    @model_validator(mode="after")
    def _told_apart(self) -> EvaluationConfig:
        names = [one.case for one in self.noise]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two cases of noise are called {', '.join(twice)}: give each a name of its own")
        return self


class ReportConfig(Section):
    faces: bool = Field(True, description="show face crops in the report")
    title: str = Field("Multimodal emotion recognition", description="heading of the report")


class SubmissionConfig(Section):
    format: Literal["mer2024", "mer2023"] = Field(
        "mer2024", description="mer2024: name,discrete | mer2023: also valence, by fit.valence"
    )
    candidates: str | None = Field(None, description="CSV with a name column: the clips to submit, in its order")


class RuntimeConfig(Section):
    num_cpus: int | None = Field(None, ge=1, description="CPUs of an embedded Ray; default all of this machine")
    object_store_bytes: Annotated[int, Field(ge=80 * 2**20)] | Literal["auto"] = Field(
        "auto",
        description="object store of an embedded Ray; auto: 30% of the memory, and room for what learning puts in it",
    )
    max_attempts: int = Field(2, ge=1, description="times a batch may kill its worker before it is halved")
    max_machine_faults: int = Field(
        3, ge=0, description="times a batch is made again elsewhere when the machine failed it, not a clip"
    )
    clip_seconds: float = Field(60.0, gt=0, description="time limit per clip in a step")
    stall_seconds: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="a step with no progress for this long is begun anew, once, then fails; auto: more than its "
        "longest batch may take",
    )


class ExportConfig(Section):
    """Features in the form that other tools read."""

    mertools: str | None = Field(
        None, description="folder to write MERTools' features/<FEAT>-UTT (and -FRA, with sequences) into"
    )
    huggingface: str | None = Field(None, description="folder to write a Hugging Face dataset into")


class PredictingConfig(Section):
    """How new clips are fitted into what a finished run knows."""

    new_speakers: Literal["batch", "whole"] = Field(
        "batch",
        description="with standardise=speaker or voices: new clips join the run's statistics | the run's alone, a new "
        "speaker by those of all its clips",
    )


class ProbingConfig(Section):
    """How single layers are judged (P2 section 3.2.1)."""

    layers: Annotated[int, Field(ge=1)] | Literal["all"] | list[int] = Field(
        10, description="the last n hidden states | all | a list; 0: before layer 1"
    )
    folds: int = Field(5, ge=2, description="folds of the cross-validation; shrinks to what classes and speakers allow")
    penalty: float = Field(10.0, gt=0, description="L2 penalty of the logistic regression on a layer's vectors")


class SearchConfig(Section):
    """What ``jobs/tune.py`` tries, and how long."""

    space: dict[str, Any] = Field(
        default_factory=dict, description="keys of fit and mining to search, over the defaults; docs/tuning.md"
    )
    num_trials: int = Field(30, ge=1, description="trials in all; raise it to go on with a finished search")
    concurrent: int = Field(1, ge=1, description="trials at once; one alone makes the search the same every time")
    seed: int | None = Field(None, ge=0, description="seed of the suggestions; default: the job's seed")
    grace_rounds: int = Field(1, ge=0, description="rounds after round 0 that every trial is given")
    reduction: float = Field(3.0, gt=1, description="of the trials that reach a rung, one in so many goes on (ASHA)")
    cpus: float = Field(1.0, gt=0, description="CPUs per trial")
    gpus: float = Field(0.0, ge=0, description="GPUs per trial")


class LoggersConfig(Section):
    """Where else a search or a training is told of, beside its own files."""

    loggers: list[Literal["tensorboard", "mlflow"]] = Field(
        default_factory=list, description="tensorboard: <run.dir>/tensorboard | mlflow: to mlflow_uri"
    )
    mlflow_uri: str | None = Field(None, description="tracking address of MLflow; default a file in <run.dir>")
