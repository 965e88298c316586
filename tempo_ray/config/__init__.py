"""Every knob: one frozen pydantic model per job, nested by act, one file per act.

Imports neither ray nor torch, so that every job answers `--help` at once and refuses a bad config
before it loads anything. Units are in the names or in the docstrings. Tested by
tests/config/test_load.py and, the shipped files, by tests/test_cli.py.
"""

from tempo_ray.config.base import Config, Placement, PoolConfig, RayConfig
from tempo_ray.config.evaluate import EvaluateConfig
from tempo_ray.config.media import EngineConfig, FramesConfig, SamplingConfig
from tempo_ray.config.pairs import (
    ClipsConfig,
    DecodeConfig,
    ExplainConfig,
    ExportConfig,
    ExportFormat,
    Form,
    GeneratePairsConfig,
    PairsConfig,
    PerturbationType,
    RankConfig,
    RespondConfig,
    SelectConfig,
    ShotsConfig,
    VerdictConfig,
    VideosConfig,
)
from tempo_ray.config.serve import AutoscaleConfig, GuardConfig, ServeConfig, ServedModel
from tempo_ray.config.shapeworld import (
    DemoConfig,
    MakeShapeworldConfig,
    PretrainConfig,
    WorldConfig,
)
from tempo_ray.config.study import StudyConfig
from tempo_ray.config.train import (
    AdaptiveConfig,
    AlignConfig,
    CurriculumConfig,
    DeepSpeedConfig,
    HealthConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    SftConfig,
    TrainConfig,
    WorkersConfig,
)

__all__ = [
    "AdaptiveConfig",
    "AlignConfig",
    "AutoscaleConfig",
    "ClipsConfig",
    "Config",
    "CurriculumConfig",
    "DecodeConfig",
    "DeepSpeedConfig",
    "DemoConfig",
    "EngineConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "ExportFormat",
    "Form",
    "FramesConfig",
    "GeneratePairsConfig",
    "GuardConfig",
    "HealthConfig",
    "LoraConfig",
    "LossConfig",
    "MakeShapeworldConfig",
    "OptimizerConfig",
    "PairsConfig",
    "PerturbationType",
    "Placement",
    "PoolConfig",
    "PretrainConfig",
    "RankConfig",
    "RayConfig",
    "RespondConfig",
    "SamplingConfig",
    "SelectConfig",
    "ServeConfig",
    "ServedModel",
    "SftConfig",
    "ShotsConfig",
    "StudyConfig",
    "TrainConfig",
    "VerdictConfig",
    "VideosConfig",
    "WorkersConfig",
    "WorldConfig",
]
