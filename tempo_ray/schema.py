"""The row types, one per hand-off, in flow order: Video -> Cut -> Clip -> Answer -> Pair; and Failure.

Each is an Arrow type; `VIDEO`, `ANSWERS` and `PAIR` are the schemas of the Parquet files under a run directory, and the
nested ones (`CUT`, `CLIP`, `ANSWER`) live inside a row of `ANSWERS`: one row per video, so that a video is committed
whole or not at all.
"""

import pyarrow as pa

SCHEMA_VERSION = "2"

VIDEO = pa.schema(
    [
        ("video_id", pa.string()),  # uuid5 of the URI: the same file has the same id in every run
        ("uri", pa.string()),
        ("bytes", pa.int64()),
    ]
)

CUT = pa.struct(
    [
        ("start", pa.int64()),  # first frame
        ("end", pa.int64()),  # one past the last frame
        (
            "gray_range",
            pa.float32(),
        ),  # max - min grey value over all pixels of all frames, 0 to 255
    ]
)

CLIP = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("group", pa.int64()),  # similarity group; two clips of one group look alike
        ("key_frames", pa.list_(pa.int64())),
        ("caption", pa.string()),
        ("caption_finish_reason", pa.string()),
        ("caption_tokens", pa.int64()),
    ]
)

ANSWER = pa.struct(
    [
        ("answer_id", pa.string()),
        ("form", pa.string()),  # what stood for the video: `caption`, `clip` or `video`
        ("perturbation", pa.string()),  # `clean`, `drop`, `shuffle` or `reverse`
        ("strength", pa.int64()),  # nominal r; null for clean
        ("sample", pa.int64()),  # 0, or which further sample of the same prompt
        ("order", pa.list_(pa.int64())),  # clip indices as the model was shown them
        ("order_distance", pa.float64()),  # share of clip pairs whose order is turned round, 0 to 1
        ("kept_share", pa.float64()),  # share of the clips that were shown, 0 to 1
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
)

ANSWERS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),  # `kept`, `dropped` or `failed`
        ("reason", pa.string()),  # null when kept
        (
            "failed_at",
            pa.string(),
        ),  # the step that failed: `open`, `decode`, `respond`; null otherwise
        ("message", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("decoder", pa.string()),
        ("detector", pa.string()),
        ("embedding", pa.string()),
        ("richness", pa.float64()),
        ("cuts", pa.list_(CUT)),
        ("clips", pa.list_(CLIP)),
        ("answers", pa.list_(ANSWER)),
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("config_hash", pa.string()),
    ]
)

FAILURE = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("failed_at", pa.string()),
        ("message", pa.string()),
    ]
)
"""A video that could not be read in passing: it has no row of ANSWERS, and the next run tries it again."""

RULE = pa.struct([("name", pa.string()), ("passed", pa.bool_()), ("detail", pa.string())])

PAIR = pa.schema(
    [
        ("pair_id", pa.string()),
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("prompt", pa.string()),  # the training prompt; both answers share it and the clean video
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("form", pa.string()),
        ("perturbation", pa.string()),
        ("strength", pa.int64()),
        ("chosen_order", pa.list_(pa.int64())),
        ("rejected_order", pa.list_(pa.int64())),
        ("order_distance", pa.float64()),
        ("kept_share", pa.float64()),
        ("text_distance", pa.float64()),  # word-level edit distance over the longer length, 0 to 1
        ("length_ratio", pa.float64()),  # words of rejected over words of chosen
        ("chosen_tokens", pa.int64()),
        ("rejected_tokens", pa.int64()),
        ("chosen_answer_id", pa.string()),
        ("rejected_answer_id", pa.string()),
        ("rules", pa.list_(RULE)),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("config_hash", pa.string()),  # of the run that wrote the answers
        ("pairs_config_hash", pa.string()),  # of the run that paired them
    ]
)


def with_metadata(schema: pa.Schema, config_hash: str) -> pa.Schema:
    """The schema with its version and the hash of the config that made the rows in the Parquet metadata."""
    return schema.with_metadata(
        {"tempo_ray.schema_version": SCHEMA_VERSION, "tempo_ray.config_hash": config_hash}
    )
