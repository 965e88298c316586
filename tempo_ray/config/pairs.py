"""jobs/generate_pairs.py: a folder of videos -> preference pairs; and what reads a finished run."""

from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tempo_ray.config.base import (
    Config,
    Location,
    ModelName,
    PoolConfig,
    RayConfig,
    RunLocation,
    Share,
    flatten,
)
from tempo_ray.config.media import EngineConfig, FramesConfig, SamplingConfig

PerturbationType = Literal["drop", "shuffle", "reverse"]
Form = Literal["caption", "clip", "video"]
ExportFormat = Literal["trl", "ms_swift", "llama_factory"]


class VideosConfig(Config):
    input: Location
    """A folder of videos, one video file, or a list of them (.parquet with a column `uri`, or .txt
    with one URI per line).

    A local path or an Arrow URI. Relative paths in a list are relative to the list's folder.
    """
    extensions: tuple[str, ...] = (
        ".mp4",
        ".mkv",
        ".webm",
        ".avi",
        ".mov",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".ts",
        ".flv",
        ".wmv",
    )
    limit: PositiveInt | None = None
    """Take the first files only, in the order of their names; null takes all. Videos that a run has
    listed stay listed."""


class DecodeConfig(Config):
    short_side: PositiveInt = 64
    """Pixels of the shorter side of the frames used for shots, similarity and sharpness."""
    chunk_frames: PositiveInt = 64
    """Frames in memory at a time."""
    embed_pixels: PositiveInt = 512 * 512
    """Maximum pixels of the frames that are embedded for similarity."""
    max_seconds: PositiveFloat = 1200.0
    """A video whose container announces more is dropped without being decoded; one that holds more
    is dropped as soon as that shows."""
    timeout_s: PositiveFloat = 900.0
    """A file that takes longer to decode fails, and its decoder is killed."""
    memory_bytes: PositiveInt = 2_000_000_000
    """Maximum private memory for decoding one file."""
    attempts: PositiveInt = 3
    """Attempts at a file after transient errors: its store did not answer, its decoder died."""


class ShotsConfig(Config):
    detector: Literal["adaptive", "transnetv2"] = "adaptive"
    """PySceneDetect's AdaptiveDetector, or TransNetV2 (arXiv 2008.04838), which needs the extra
    `transnetv2`."""
    transnetv2_weights: Location | None = None
    """Weights for that package's network (.pth or .safetensors); null takes those it ships."""
    transnetv2_threshold: Share = 0.5
    adaptive_threshold: float = 3.0
    """PySceneDetect's AdaptiveDetector: how far a frame's change stands out from its neighbours."""
    min_content_val: float = 15.0
    """PySceneDetect's AdaptiveDetector: smallest change that is a cut, on its 0 to 255 scale."""
    min_frames: PositiveInt = 8
    """Shorter shots are dropped."""
    min_seconds: float = 0.2
    """Shorter shots are dropped."""
    min_gray_range: float = 10.0
    """Shots whose pixels span less grey than this (0 to 255) are dropped as blank."""


class ClipsConfig(Config):
    similarity: float = Field(0.8, ge=-1.0, le=1.0)
    """Shots are merged into scenes while the most similar two are more similar than this
    (cosine)."""
    descriptor_similarity: Share = 0.9
    """The same for the colour-and-edge descriptor, whose cosines run higher."""
    encoder: ModelName | None = None
    """Folder or hub name of a transformers image encoder (SigLIP); null takes the colour-and-edge
    descriptor, which needs no weights."""


class VerdictConfig(Config):
    min_shots: PositiveInt = 4
    max_shots: PositiveInt = 32
    max_shot_seconds: float = 16.0
    min_clips: PositiveInt = 4
    max_recurrence: PositiveInt = 3
    """No scene may make more clips than this, nor more than a third of the clips."""
    min_richness: NonNegativeFloat = 0.0
    """Minimum richness in bits (see tempo_ray/data/verdict.py); the rank command shows which value
    keeps which share."""


class SelectConfig(Config):
    decode: DecodeConfig = DecodeConfig()
    shots: ShotsConfig = ShotsConfig()
    clips: ClipsConfig = ClipsConfig()
    verdict: VerdictConfig = VerdictConfig()
    pool: PoolConfig = PoolConfig(max_size=2, cpus=1.0, batch_rows=8)


class RespondConfig(Config):
    model: ModelName
    """Model that writes the answers: the one that is to be trained."""
    form: Form = "caption"
    """What stands for the video: the list of clip captions, each clip as a video, or one video."""
    types: tuple[PerturbationType, ...] = ("drop", "shuffle", "reverse")
    strengths: tuple[PositiveInt, ...] = (16, 8, 4, 2)
    levels: Literal["distinct", "published"] = "distinct"
    """`distinct` never yields the clean order nor one order twice; `published` does as the
    published code does, collapsed levels and unchanged orders included."""
    clean_samples: PositiveInt = 1
    """Answers to the clean prompt. The first is chosen; the others stay in answers/ for ranking."""
    frames: FramesConfig = FramesConfig()
    key_frame_pixels: PositiveInt = 602_112
    """Maximum pixels of a key frame; the default, 768 x 28 x 28, is what Qwen2.5-VL's processor
    allows a frame."""
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    pool: PoolConfig = PoolConfig(batch_rows=16, gpus=1.0)
    batches_in_flight: PositiveInt = 3
    """Batches of `pool.batch_rows` videos that one engine works on together: while one is decoded,
    others are answered."""

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.pool.gpus and self.engine.tensor_parallel_size > self.pool.gpus:
            raise ValueError(
                f"engine.tensor_parallel_size {self.engine.tensor_parallel_size} needs that many "
                f"GPUs per actor; pool.gpus is {self.pool.gpus:g}: raise it"
            )
        return self


class PairsConfig(Config):
    """The published pair rules."""

    max_length_ratio: float = Field(1.5, ge=1.0)
    """shuffle and reverse: neither answer may be more than this many times as long as the other."""
    require_longer_for_drop: bool = True
    """drop: chosen must be the longer answer."""
    forbid_substring: bool = True
    """chosen must not be contained in rejected."""


class GeneratePairsConfig(Config):
    """A folder of videos -> preference pairs."""

    run: RunLocation
    """Run directory: all output of this job. The same command on the same run resumes it."""
    seed: NonNegativeInt = 0
    videos: VideosConfig
    select: SelectConfig = SelectConfig()
    respond: RespondConfig
    pairs: PairsConfig = PairsConfig()
    ray: RayConfig = RayConfig()

    def answer_settings(self) -> dict[str, Any]:
        """What a row of answers depends on, by dotted name; pool sizes and timeouts are not."""
        decode = {"short_side", "embed_pixels", "max_seconds"}
        respond = {
            "model",
            "form",
            "types",
            "strengths",
            "levels",
            "clean_samples",
            "frames",
            "key_frame_pixels",
            "sampling",
        }
        select = {"shots": True, "clips": True, "verdict": True, "decode": decode}
        include: dict[str, Any] = {"seed": True, "select": select, "respond": respond}
        return flatten(self.model_dump(mode="json", include=include))


class ExplainConfig(Config):
    """A pair of a run -> everything behind it."""

    run: Location
    """Run directory of generate_pairs."""


class RankConfig(Config):
    """The videos of a run by richness."""

    run: Location
    """Run directory of generate_pairs."""


class ExportConfig(Config):
    """The pairs of a run -> the files of other trainers, in RUN/export/."""

    run: Location
    """Run directory of generate_pairs."""
