"""What each job can be told: frozen models, filled from YAML files and ``key.sub=value`` overrides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mer_ray.config.extraction import (
    DenoiseConfig,
    EncoderConfig,
    FacesConfig,
    HintConfig,
    MediaConfig,
    Pool,
    TranscribeConfig,
)
from mer_ray.config.reading import CONFIGS, REPOSITORY, T, describe, digest, load
from mer_ray.config.sections import (
    DataConfig,
    DemoConfig,
    EvaluationConfig,
    ExportConfig,
    FitConfig,
    JobConfig,
    LearnerConfig,
    LoggersConfig,
    MiningConfig,
    NoiseConfig,
    OptimizationConfig,
    PluginConfig,
    PredictingConfig,
    ProbingConfig,
    ReportConfig,
    RunConfig,
    RuntimeConfig,
    SearchConfig,
    Section,
    SelfTrainingConfig,
    SubmissionConfig,
    TablesConfig,
    TaskConfig,
)

__all__ = [
    "CONFIGS",
    "REPOSITORY",
    "DataConfig",
    "DemoConfig",
    "DenoiseConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "ExportConfig",
    "ExtractConfig",
    "ExtractionConfig",
    "FacesConfig",
    "FitConfig",
    "HintConfig",
    "JobConfig",
    "LearnerConfig",
    "LoggersConfig",
    "MediaConfig",
    "MineConfig",
    "MiningConfig",
    "NoiseConfig",
    "OptimizationConfig",
    "PluginConfig",
    "Pool",
    "PredictConfig",
    "PredictingConfig",
    "ProbeConfig",
    "ProbingConfig",
    "ReportConfig",
    "RunConfig",
    "RuntimeConfig",
    "SearchConfig",
    "Section",
    "SelfTrainingConfig",
    "SubmissionConfig",
    "T",
    "TablesConfig",
    "TaskConfig",
    "TrainConfig",
    "TranscribeConfig",
    "TuneConfig",
    "WhyConfig",
    "describe",
    "digest",
    "load",
]


class ExtractionConfig(JobConfig):
    """What every job can be told that makes features of clips."""

    run: RunConfig = RunConfig()
    seed: int = Field(0, ge=0, description="seed of everything random")
    data: DataConfig = DataConfig()
    labels: Literal["auto"] | str | list[str] = Field(
        "auto", description="auto | mer2024 | mer2023 | sentiment | a list"
    )
    tables: TablesConfig = TablesConfig()
    media: MediaConfig = MediaConfig()
    faces: FacesConfig = FacesConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    transcribe: TranscribeConfig = TranscribeConfig()
    hint: HintConfig = HintConfig()
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict, description="features to extract, by name")
    runtime: RuntimeConfig = RuntimeConfig()
    max_error_fraction: float = Field(
        0.1, ge=0, le=1, description="quarantined share of the manifest that gives exit 3"
    )


class ExtractConfig(ExtractionConfig):
    """Everything ``jobs/extract.py`` can be told."""

    export: ExportConfig = ExportConfig()


class ProbeConfig(ExtractionConfig):
    """Everything ``jobs/probe.py`` can be told; ``encoders`` are the models whose layers are judged."""

    probe: ProbingConfig = ProbingConfig()
    report: ReportConfig = ReportConfig()


class MineConfig(ExtractionConfig):
    """Everything ``jobs/mine.py`` can be told."""

    learners: Literal["auto"] | list[LearnerConfig] = Field("auto", description="auto: four different ones | a list")
    fit: FitConfig = FitConfig()
    mining: MiningConfig = MiningConfig()
    ensemble: Literal["mode", "mean"] = Field("mode", description="mode with drop-last (P1) | mean of probabilities")
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    submission: SubmissionConfig = SubmissionConfig()


class TuneConfig(MineConfig):
    """Everything ``jobs/tune.py`` can be told; what is not searched is as for ``jobs/mine.py``."""

    search: SearchConfig = SearchConfig()
    tune: LoggersConfig = LoggersConfig()


class TrainConfig(ExtractionConfig):
    """Everything ``jobs/train_encoder.py`` can be told; ``encoders`` are not read."""

    name: str = Field("trained", description="what the encoder is called where it is used")
    task: TaskConfig = TaskConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    log: LoggersConfig = LoggersConfig()


class PredictConfig(JobConfig):
    """Everything ``jobs/predict.py`` can be told; encoders and learners are those of the finished run."""

    model: str | None = Field(None, description="directory of the finished run, local or s3://")
    run: RunConfig = RunConfig(dir="runs/predict")
    data: DataConfig = DataConfig(layout="manifest")
    predict: PredictingConfig = PredictingConfig()
    tables: TablesConfig = TablesConfig()
    submission: SubmissionConfig = SubmissionConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    max_error_fraction: float = Field(
        0.1, ge=0, le=1, description="quarantined share of the manifest that gives exit 3"
    )


class WhyConfig(JobConfig):
    """Everything ``jobs/why.py`` can be told."""

    run: RunConfig = RunConfig()
    clip: str | None = Field(None, description="id of the clip")
    html: str | None = Field(None, description="file to write the page to, beside what is printed")
    faces: bool = Field(True, description="show face crops in the page, where the run has them")
