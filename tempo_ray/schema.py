"""The Arrow schemas of what lies on disk, in flow order: Video, Shot, Clip, Answer, Pair, Score.

`VIDEO`, `VIDEO_ANSWERS`, `FAILURE`, `PAIR` and `SCORE` are the schemas of Parquet files under a run
directory. `SHOT`, `CLIP` and `ANSWER` are nested in a row of `VIDEO_ANSWERS`: one row per video, so
that a video is committed whole or not at all. records.py has the same as dataclasses.

SCHEMA_VERSION changes whenever a column is renamed, removed, or changes its meaning. It is in the
metadata of every file; `check_version` refuses files of another version, naming both: such a run is
read with the release that wrote it, or made again.
"""

import pyarrow as pa

from tempo_ray.errors import UserError

SCHEMA_VERSION = "3"
_VERSION_KEY = b"tempo_ray.schema_version"

VIDEO = pa.schema(
    [
        ("video_id", pa.string()),  # uuid5 of the URI: the same file has the same id in every run
        ("uri", pa.string()),
        ("bytes", pa.int64()),
    ]
)

SHOT = pa.struct(
    [
        ("start", pa.int64()),  # first frame
        ("end", pa.int64()),  # one past the last frame
        ("gray_range", pa.float32()),  # max - min grey over all pixels of all frames, 0 to 255
    ]
)

CLIP = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("scene", pa.int64()),  # two clips of one scene look alike
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
        ("sample", pa.int64()),  # index among the samples of one prompt
        ("order", pa.list_(pa.int64())),  # clip indices as the model was shown them
        ("order_distance", pa.float64()),  # share of clip pairs that are inverted, 0 to 1
        ("kept_share", pa.float64()),  # share of the clips that were shown, 0 to 1
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
)

VIDEO_ANSWERS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),  # `kept`, `dropped` or `failed`
        ("reason", pa.string()),  # null when kept
        ("failed_at", pa.string()),  # `open`, `decode` or `respond`; null unless failed
        ("message", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("decoder", pa.string()),
        ("detector", pa.string()),
        ("embedding", pa.string()),
        ("richness", pa.float64()),
        ("shots", pa.list_(SHOT)),
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
"""A video that failed transiently: it has no row of VIDEO_ANSWERS, and the next run retries it."""

RULE_RESULT = pa.struct(
    [
        ("name", pa.string()),
        ("passed", pa.bool_()),  # null where the rule does not apply
        ("detail", pa.string()),
    ]
)

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
        ("rules", pa.list_(RULE_RESULT)),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("config_hash", pa.string()),  # of the run that wrote the answers
        ("pairs_config_hash", pa.string()),  # of the run that paired them
    ]
)

SCORE = pa.schema(
    [
        ("question_id", pa.string()),
        ("video", pa.string()),  # the file's name
        ("groups", pa.list_(pa.string())),  # what its score counts towards, named by the benchmark
        ("chance", pa.float64()),  # accuracy of a blind guess
        ("answer", pa.string()),
        ("prediction", pa.string()),  # null where there was no answer
        ("correct", pa.bool_()),  # false where there was no answer
        ("error", pa.string()),  # why there was none
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("endpoint", pa.string()),
        ("served", pa.string()),  # what the endpoint says of the model: frames, engine, config hash
        ("temperature", pa.float64()),
        ("max_tokens", pa.int64()),
        ("questions_sha256", pa.string()),
    ]
)


def with_metadata(schema: pa.Schema, config_hash: str) -> pa.Schema:
    """The schema, with its version and the hash of the config that made the rows as metadata."""
    return schema.with_metadata(
        {_VERSION_KEY: SCHEMA_VERSION, "tempo_ray.config_hash": config_hash}
    )


def check_version(schema: pa.Schema, location: str) -> None:
    """Raises UserError where a file was written with another version of these schemas.

    Files without a version (a user's own pairs, say) pass: their columns are checked by whoever
    reads them.
    """
    found = (schema.metadata or {}).get(_VERSION_KEY)
    if found is not None and found.decode() != SCHEMA_VERSION:
        raise UserError(
            f"{location} has schema version {found.decode()} and this release of tempo_ray reads "
            f"version {SCHEMA_VERSION}: use the release that wrote it, or make a new run"
        )
