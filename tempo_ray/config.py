"""Every knob: one frozen pydantic model a job, nested by act. tempo_ray/arguments.py makes them of files and words.

Imports neither ray nor torch, so that every job answers `--help` at once and refuses a bad config before it loads
anything. Units are in the names or beside the fields.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(path: str) -> str:
    """Workers have another working directory than the driver; and one file has one name, however it was written."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _absolute_folder(model: str) -> str:
    return _absolute(model) if Path(model).expanduser().exists() else model


Location = Annotated[str, AfterValidator(_absolute)]
"""A local path, made absolute, or a URI that Arrow knows."""


def _plain(uri: str) -> str:
    """Ray Data parses a run's URIs its own way, in which a space is an error and a % begins a code."""
    if "://" in uri and any(letter.isspace() or letter in "%?#" for letter in uri):
        raise ValueError(
            f"{uri}: a run directory in a store has no spaces, %, ? or # in its name; give another one"
        )
    return uri


RunLocation = Annotated[Location, AfterValidator(_plain)]
"""A local path, made absolute, or a URI that Arrow and Ray know alike."""
ModelName = Annotated[str, AfterValidator(_absolute_folder)]
"""A model's folder, made absolute, or its hub name."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]

PerturbationType = Literal["drop", "shuffle", "reverse"]
Form = Literal["caption", "clip", "video"]
ExportFormat = Literal["trl", "ms_swift", "llama_factory"]


class Config(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class RayConfig(Config):
    address: str | None = None
    """A running cluster's address (`auto` finds one); null starts Ray in this process, or joins the cluster of the job."""
    num_cpus: Positive | None = None
    """Logical CPUs of a Ray started here; null counts the machine's, at least 8, so that small actors always fit."""
    object_store_bytes: int = Field(400_000_000, ge=80_000_000)
    """Object store of a Ray started here."""
    dashboard: bool = False
    """Start the dashboard with a Ray started here."""


class Pool(Config):
    """An autoscaling pool of actors: each holds `cpus` and `gpus`, and takes `batch` rows at a time."""

    min_size: Positive = 1
    max_size: Positive = 1
    cpus: float = Field(1.0, ge=0)
    gpus: float = Field(0.0, ge=0)
    batch: Positive = 4

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError(
                f"max_size {self.max_size} is under min_size {self.min_size}; raise max_size"
            )
        return self


class FramesConfig(Config):
    """How a video becomes the frames that a model sees; the same for answers, training and serving."""

    fps: Above = 2.0
    """Frames sampled per second of video."""
    min_frames: Positive = 4
    max_frames: Positive = 768

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.max_frames % 2 or self.min_frames % 2 or self.max_frames < self.min_frames:
            raise ValueError(
                "min_frames and max_frames are even (two frames make one temporal patch), max_frames the larger"
            )
        return self


# --------------------------------------------------------------------------------------------------------------- pairs


class VideosConfig(Config):
    input: Location
    """A folder of videos, one video file, or a list of them (.parquet with a column `uri`, or .txt with one URI a line).

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
    limit: Positive | None = None
    """Take the first so many files, in the order of their names; null takes all. What a run has listed stays listed."""


class DecodeConfig(Config):
    short_side: Positive = 64
    """Pixels of the shorter side of the frames that shots, similarity and sharpness are computed from."""
    chunk_frames: Positive = 64
    """Frames in memory at a time."""
    embed_pixels: Positive = 512 * 512
    """Most pixels of the frames that are compared for likeness."""
    max_seconds: float = Field(1200.0, gt=0)
    """A video that announces more is dropped without being decoded; one that holds more, as soon as that is seen."""
    timeout_s: float = Field(900.0, gt=0)
    """A file that takes longer to decode fails, and its decoder is ended."""
    memory_bytes: Positive = 2_000_000_000
    """Most private memory that decoding a file may take."""
    attempts: Positive = 3
    """Tries of a file whose store did not answer or whose decoder died."""


class CutsConfig(Config):
    detector: Literal["adaptive", "transnetv2"] = "adaptive"
    """PySceneDetect's AdaptiveDetector, or TransNetV2 (arXiv 2008.04838), which needs the extra `transnetv2`."""
    transnetv2_weights: Location | None = None
    """Weights as that package's network takes them (.pth or .safetensors); null takes those that come with it."""
    transnetv2_threshold: Share = 0.5
    adaptive_threshold: float = 3.0
    """PySceneDetect's AdaptiveDetector: how far a frame's change stands out from its neighbours'."""
    min_content_val: float = 15.0
    """PySceneDetect's AdaptiveDetector: least change, on its 0 to 255 scale."""
    min_shot_frames: Positive = 8
    """Shorter shots are dropped."""
    min_shot_seconds: float = 0.2
    min_gray_range: float = 10.0
    """Shots whose pixels span less grey than this (0 to 255) are dropped: black, white, blank."""


class ClipsConfig(Config):
    similarity: float = Field(0.8, ge=-1.0, le=1.0)
    """Cuts are merged into groups while the most alike two groups are more alike than this (cosine)."""
    descriptor_similarity: float = Field(0.9, ge=0.0, le=1.0)
    """The same for the colour-and-edge descriptor, whose cosines run higher."""
    encoder: ModelName | None = None
    """Folder or hub name of a transformers image encoder (SigLIP); null takes the weight-free colour-and-edge descriptor."""


class VerdictConfig(Config):
    min_cuts: Positive = 4
    max_cuts: Positive = 32
    max_cut_seconds: float = 16.0
    min_clips: Positive = 4
    max_recurrence: Positive = 3
    """No group may make more clips than this, nor more than a third of the clips."""
    min_richness: float = Field(0.0, ge=0.0)
    """Least richness in bits (see tempo_ray/data/verdict.py); the rank command says which value keeps which share."""


class SelectConfig(Config):
    decode: DecodeConfig = DecodeConfig()
    cuts: CutsConfig = CutsConfig()
    clips: ClipsConfig = ClipsConfig()
    verdict: VerdictConfig = VerdictConfig()
    pool: Pool = Pool(max_size=2, cpus=1.0, batch=8)


class SamplingConfig(Config):
    temperature: float = Field(0.7, ge=0.0)
    repetition_penalty: float = Field(1.05, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    caption_tokens: Positive = 256
    """Most tokens of a clip caption."""
    answer_tokens: Positive = 1024
    """Most tokens of a whole-video answer."""


class EngineConfig(Config):
    """What a vLLM engine is started with."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Positive = 16384
    max_num_seqs: Positive = 256
    tensor_parallel_size: Positive = 1
    kv_cache_bytes: int | None = None
    """KV cache of one engine; null lets vLLM take its share of a GPU's memory. Required on CPU."""
    enforce_eager: bool = False
    """No graph capture: slower steps, faster start."""
    in_process: bool = False
    """Run the engine core in the actor itself: a start of seconds instead of a minute on CPU."""


class RespondConfig(Config):
    model: ModelName
    """Folder or hub name of the model that writes the answers: the one that is to be trained."""
    form: Form = "caption"
    types: tuple[PerturbationType, ...] = ("drop", "shuffle", "reverse")
    strengths: tuple[Positive, ...] = (16, 8, 4, 2)
    levels: Literal["distinct", "reference"] = "distinct"
    """`distinct` never gives the clean order nor one order twice; `reference` is the published code, collapses and all."""
    clean_samples: Positive = 1
    """Answers to the clean prompt. The first is chosen; further ones stand in answers/ for whoever ranks them later."""
    frames: FramesConfig = FramesConfig()
    key_frame_pixels: Positive = 602_112
    """Most pixels of a key frame, 768 x 28 x 28 by default: what Qwen2.5-VL's processor allows a frame."""
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    pool: Pool = Pool(batch=16, gpus=1.0)
    batches_in_flight: Positive = 3
    """Batches of `pool.batch` videos that one engine works on together: while one is decoded, others are answered."""

    @model_validator(mode="after")
    def _gpus(self) -> Self:
        if self.pool.gpus and self.engine.tensor_parallel_size > self.pool.gpus:
            raise ValueError(
                f"engine.tensor_parallel_size {self.engine.tensor_parallel_size} needs as many GPUs an actor; "
                f"pool.gpus is {self.pool.gpus:g}: raise it"
            )
        return self


class PairsConfig(Config):
    """The published pair rules."""

    max_length_ratio: float = Field(1.5, ge=1.0)
    """shuffle and reverse: neither answer may be over this many times the other's length."""
    require_longer_for_drop: bool = True
    """drop: chosen must be the longer answer."""
    forbid_substring: bool = True
    """chosen must not be contained in rejected."""


class GeneratePairsConfig(Config):
    """A folder of videos -> preference pairs."""

    run: RunLocation
    """Run directory: everything this job writes lies under it. The same command on the same run goes on where it stopped."""
    seed: int = Field(0, ge=0)
    videos: VideosConfig
    select: SelectConfig = SelectConfig()
    respond: RespondConfig
    pairs: PairsConfig = PairsConfig()
    ray: RayConfig = RayConfig()

    def settings(self) -> dict[str, Any]:
        """What a row of answers depends on, by dotted name; not how many hold the work, nor how long they wait."""
        kept: dict[str, Any] = {
            "seed": True,
            "select": {
                "cuts": True,
                "clips": True,
                "verdict": True,
                "decode": {"short_side", "embed_pixels", "max_seconds"},
            },
            "respond": {
                *(
                    "model",
                    "form",
                    "types",
                    "strengths",
                    "levels",
                    "clean_samples",
                    "frames",
                    "key_frame_pixels",
                    "sampling",
                ),
            },
        }
        return _dotted(self.model_dump(mode="json", include=kept))


def _dotted(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _dotted(value, f"{before}{name}.")
            if isinstance(value, dict)
            else {f"{before}{name}": value}
        )
    return flat


class ExplainConfig(Config):
    """A pair of a run -> everything behind it."""

    run: Location
    """Run directory of jobs/generate_pairs.py."""


class RankConfig(Config):
    """The videos of a run by richness."""

    run: Location
    """Run directory of jobs/generate_pairs.py."""


class ExportConfig(Config):
    """The pairs of a run -> the files of other trainers, in RUN/export/."""

    run: Location
    """Run directory of jobs/generate_pairs.py."""


# --------------------------------------------------------------------------------------------------------------- train


class LoraConfig(Config):
    rank: Positive = 32
    alpha: Above = 64.0
    dropout: float = Field(0.0, ge=0, lt=1)


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a cosine decay to zero."""

    lr: Above = 5e-6
    warmup: Share = 0.05
    """Share of the steps."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: Above = 1.0


class LossConfig(Config):
    beta: float = Field(0.1, gt=0)
    type: Literal["sigmoid", "ipo", "hinge", "robust", "simpo"] = "sigmoid"
    nll_weight: float = Field(1.0, ge=0)
    """Weight of the negative log-likelihood of chosen, per token. 1.0 in the published recipe."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    length_normalised: bool = False
    """Divide each answer's log-ratio by its tokens. SimPO always does."""
    simpo_gamma: float = 0.5
    """SimPO's target margin."""


class AdaptiveConfig(Config):
    """When a stage is over before its end. Reward accuracy and margin are watched on videos that are held out of the stage."""

    held_out: float = Field(0.1, gt=0, lt=0.5)
    """Share of the stage's videos that are watched and not trained on."""
    every_steps: Positive = 10
    """Steps from one look to the next."""
    patience: Positive = 2
    """Looks in a row without improvement that end the stage."""
    accuracy_gain: float = Field(0.01, ge=0)
    """The least that counts as an improvement of reward accuracy."""
    margin_gain: float = Field(0.02, ge=0)
    """The least that counts as an improvement of the reward margin."""
    min_steps: int = Field(20, ge=0)
    """Steps that a stage has at least."""


class CurriculumConfig(Config):
    order: Literal["easy_to_hard", "mixed", "hard_to_easy"] = "easy_to_hard"
    by: Literal["strength", "order", "text"] = "strength"
    """What parts the pairs into stages: their nominal strength (the paper), or quantiles of measured difficulty: how much of
    the clean order rejected lost, or how far its text is from chosen."""
    strengths: tuple[Positive, ...] = (16, 8, 4, 2)
    """by strength: nominal strengths, one stage each; larger is easier to tell."""
    quantiles: Positive = 4
    """by order or text: stages, with about as many pairs each."""
    replay: Share = 0.0
    """Pairs of earlier stages that a stage trains on again, as a share of its own."""
    epochs: Positive = 1
    """Epochs per stage."""
    adaptive: AdaptiveConfig | None = None
    """Go on to the next stage when this one has stopped to improve; null trains every stage to its end (the paper)."""

    @model_validator(mode="after")
    def _replayed(self) -> Self:
        if self.replay and self.order == "mixed":
            raise ValueError(
                "replay has nothing to bring back with order=mixed, which is one stage: leave one of them out"
            )
        return self


class HealthConfig(Config):
    """Limits at which a sick run is stopped. Each but the skipped share is a mean over `window` steps; null sets it aside."""

    window: Positive = 20
    max_chosen_drop: float | None = Field(1.0, gt=0)
    """Nats a token that chosen answers may lose against the reference."""
    max_margin: float | None = Field(50.0, gt=0)
    """Reward margin, where every pair is told apart already."""
    max_length_ratio: float | None = Field(3.0, gt=1)
    """Tokens of rejected over tokens of chosen, or the other way round."""
    max_skipped: Share = 0.2
    """Share of groups whose video is gone, unreadable or too long."""
    skipped_after: Positive = 64
    """Groups that must have been tried before that share counts."""


class AlignConfig(Config):
    """Curriculum DPO."""

    curriculum: CurriculumConfig = CurriculumConfig()
    reference: Literal["stage", "initial"] = "stage"
    """`stage`: the reference model is the one the stage starts from (as published); `initial`: the first model."""
    loss: LossConfig = LossConfig()
    lora: LoraConfig | None = LoraConfig()
    """On all linear layers of the language model; null trains its every weight, beside a frozen reference."""
    train_vision: bool = False
    """Train the vision tower too."""
    optimizer: OptimizerConfig = OptimizerConfig()
    batch: Positive = 16
    """Pairs per optimiser step, over all workers."""


class SftConfig(Config):
    data: Location | None = None
    """JSON or JSONL of conversations with `<video>`; video paths are relative to the file's folder."""
    epochs: Positive = 1
    lora: LoraConfig | None = LoraConfig(alpha=32.0)
    """On all linear layers of the language model; null trains its every weight."""
    train_vision: bool = True
    """Train the vision tower too."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)
    batch: Positive = 16
    """Conversations per optimiser step, over all workers."""


class DeepSpeedConfig(Config):
    zero_stage: Literal[0, 2, 3] = 3
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = True
    offload_optimizer: bool = False
    whole_below: int = Field(1_000_000, ge=0)
    """ZeRO-3: weights of fewer numbers stay whole on every worker; each adapter would be a collective of its own otherwise."""


Tracker = Literal[
    "tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"
]


class WorkersConfig(Config):
    count: Positive = 8
    cpus: Above = 4.0
    gpus: float = Field(1.0, ge=0)
    max_failures: int = Field(3, ge=0)
    """Times a stage goes on by itself from its last save after a worker died."""


class TrainConfig(Config):
    """Pairs -> aligned and fine-tuned model."""

    run: Location
    """Run directory. A finished stage is never run again; an unfinished one goes on from its last save."""
    recipe: Literal["pre_sft", "post_sft", "sft", "align"] = "pre_sft"
    """`pre_sft`: alignment, then SFT (the paper); `post_sft`: SFT, then alignment; or one of the two alone."""
    model: ModelName
    """Folder or hub name of the model to start from."""
    pairs: Location | None = None
    """Folder of pair Parquet files; null takes the run's own pairs/."""
    seed: int = Field(0, ge=0)
    frames: FramesConfig = FramesConfig()
    max_video_tokens: Positive | None = None
    """Most tokens of a video, whose frames are scaled down to it; null leaves it to the model's own processor. It is saved with
    the trained model, so that it is served so too."""
    max_tokens: Positive = 16384
    """Tokens of a packed row, all answers of its groups included; a group that is longer is counted and skipped by all workers
    alike."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """How packed groups attend: FlexAttention, or SDPA group by group; `auto` takes flex with GPUs and sdpa without."""
    align: AlignConfig = AlignConfig()
    sft: SftConfig = SftConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    workers: WorkersConfig = WorkersConfig()
    health: HealthConfig = HealthConfig()
    save_every_steps: Positive = 50
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where the curves go, through accelerate's trackers; each but the first needs its own package, and its login from the
    environment."""
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.attention == "flex" and not self.workers.gpus:
            raise ValueError(
                "attention=flex needs workers.gpus: FlexAttention has no backward on a CPU; take auto or sdpa"
            )
        if "sft" in self.recipe and self.sft.data is None:
            raise ValueError(
                f"recipe {self.recipe} needs sft.data; name a JSON file, or set recipe=align"
            )
        for name, batch in (("align.batch", self.align.batch), ("sft.batch", self.sft.batch)):
            if batch % self.workers.count:
                raise ValueError(
                    f"{name} {batch} is not a multiple of workers.count {self.workers.count}"
                )
        return self


# --------------------------------------------------------------------------------------------------- serve and evaluate


class ServedModel(Config):
    name: str
    """The model id that clients send."""
    path: ModelName
    """Folder or hub name."""


class AutoscaleConfig(Config):
    min_replicas: Positive = 1
    max_replicas: Positive = 1
    target_ongoing_requests: Positive = 16


class GuardConfig(Config):
    """What one request to the endpoint may be. engine.max_model_len bounds its tokens, frames.max_frames its frames."""

    max_body_bytes: Positive = 100_000_000
    """Most bytes of a request, fetched videos included; base64 takes 4 bytes for 3."""
    max_videos: Positive = 4
    """Most videos, and most images, of a request."""
    max_answers: Positive = 8
    """Most answers to a request (its `n`)."""
    fetch_timeout_s: float = Field(60.0, gt=0)


class ServeConfig(Config):
    """A model folder -> an OpenAI-compatible endpoint."""

    run: Location | None = None
    """Run directory for the summary; null writes none."""
    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    frames: FramesConfig = FramesConfig()
    """How the server samples the frames of a video; as in training."""
    guard: GuardConfig = GuardConfig()
    engine: EngineConfig = EngineConfig()
    device: Literal["cpu", "gpu"] = "gpu"
    cpus: float = 1.0
    """CPUs of one replica."""
    autoscale: AutoscaleConfig = AutoscaleConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _exposed(self) -> Self:
        names = [model.name for model in self.models]
        if not names or len(set(names)) < len(names):
            raise ValueError("models needs at least one entry, each with a name of its own")
        if self.device == "cpu" and self.engine.kv_cache_bytes is None:
            raise ValueError(
                "device=cpu needs engine.kv_cache_bytes (500000000, say): vLLM takes most of the RAM otherwise"
            )
        return self


class EvaluateConfig(Config):
    """An endpoint and questions -> scores."""

    run: Location
    endpoint: str = "http://127.0.0.1:8000/v1"
    """Base URL of an OpenAI-compatible endpoint. Its token, if it wants one, is read from TEMPO_RAY_TOKEN."""
    models: tuple[str, ...]
    """Model ids to ask; with two or more, each is compared with the first by paired statistics."""
    questions: Location
    """JSONL of questions; video paths are relative to the file's folder."""
    limit: Positive | None = None
    concurrency: Positive = 16
    """Requests in flight."""
    max_tokens: Positive = 64
    timeout_s: float = 120.0
    resamples: Positive = 10_000
    """Bootstrap resamples for the 95% intervals."""
    seed: int = Field(0, ge=0)


# ----------------------------------------------------------------------------------------------------------- shapeworld


class WorldConfig(Config):
    """What a ShapeWorld video looks like."""

    width: Annotated[int, Field(ge=32, multiple_of=2)] = 64
    height: Annotated[int, Field(ge=32, multiple_of=2)] = 64
    fps: Positive = 24
    shots: tuple[Positive, Positive] = (4, 6)
    """Fewest and most shots of a video."""
    shot_seconds: tuple[float, float] = (1.0, 1.0)
    """Shortest and longest shot."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.shots[0] > self.shots[1] or self.shot_seconds[0] > self.shot_seconds[1]:
            raise ValueError("shots and shot_seconds are [least, most]")
        return self


class MakeShapeworldConfig(Config):
    """Nothing -> a folder of drawn videos, their stories, questions and instruction data."""

    output: Location
    """Folder to write: videos/, stories.jsonl, questions.jsonl and instructions.jsonl."""
    split: Literal["train", "heldout", "test"] = "train"
    """No story stands in two splits."""
    videos: Positive = 200
    seed: int = Field(0, ge=0)
    world: WorldConfig = WorldConfig()
    questions_per_video: int = Field(6, ge=0)
    instructions_per_video: int = Field(8, ge=0)
    order_share: Share = 0.0
    """Share of the instructions that ask for the order of events. At 0 a model's sense of order comes from elsewhere."""
    ray: RayConfig = RayConfig()


class PretrainConfig(Config):
    """Nothing -> a tiny Video LLM and the record of its making."""

    output: Location
    """Folder of the model. An interrupted run goes on from its last save."""
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    seed: int = Field(0, ge=0)
    steps: Positive = 4000
    threads: Positive = 2


class DemoConfig(Config):
    """Everything from nothing: corpus, pairs, two trained models, endpoint, scores, picture."""

    run: str = "runs/demo"
    """A finished run is made anew; an unfinished one goes on where it stopped."""
    config: str = "jobs/configs/embedded.yaml"
    """The sections of this file are what the jobs run with."""
    seed: int = Field(0, ge=0)
    train_videos: Positive = 160
    test_videos: Positive = 120
    port: int | None = Field(None, ge=1, le=65535)
    """Port of the endpoint on this machine; null takes a free one."""
