"""One video -> its cuts, clips and verdict, decoded once: a row of schema.ANSWERS without answers."""

from typing import Any

from tempo_ray.config import SelectConfig
from tempo_ray.data import clips, cuts, decode, verdict
from tempo_ray.models.frames import UnreadableVideo

Row = dict[str, Any]

EMPTY: Row = {
    "status": None,
    "reason": None,
    "failed_at": None,
    "message": None,
    "frames": None,
    "fps": None,
    "width": None,
    "height": None,
    "decoder": None,
    "detector": None,
    "embedding": None,
    "richness": None,
    "cuts": [],
    "clips": [],
    "answers": [],
    "model": None,
    "model_hash": None,
    "config_hash": None,
}


def _dropped(row: Row, reason: str) -> Row:
    return row | {"status": "dropped", "reason": reason}


def _failed(row: Row, reason: str, at: str, error: Exception) -> Row:
    return row | {"status": "failed", "reason": reason, "failed_at": at, "message": str(error)}


def select(video: Row, config: SelectConfig, embed: clips.Embed) -> Row:
    """Never raises for a bad file: it becomes a failed row that says why."""
    row = {"video_id": video["video_id"], "uri": video["uri"]} | EMPTY
    try:
        known = decode.probe(video["uri"])
    except UnreadableVideo as error:
        return _failed(row, "not a video", "open", error)
    except OSError as error:
        return _failed(row, "cannot be opened", "open", error)
    row |= {"frames": known.frames, "fps": known.fps, "width": known.width, "height": known.height, "decoder": known.decoder}
    seconds = known.frames / known.fps
    if seconds > config.decode.max_seconds:
        return _dropped(row, f"too long ({seconds:.0f} s > {config.decode.max_seconds:g} s)")
    try:
        return _judged(row, known, config, embed)
    except UnreadableVideo as error:
        return _failed(row, "undecodable", "decode", error)


def _judged(row: Row, known: decode.Probe, config: SelectConfig, embed: clips.Embed) -> Row:
    scanned = cuts.scan(decode.small_frames(row["uri"], known, config.decode), known.fps, config.cuts)
    if not scanned.frames:
        raise UnreadableVideo("no frames")
    found = cuts.cuts_of(scanned, known.fps, config.cuts)
    row = row | {"frames": scanned.frames, "detector": cuts.DETECTOR, "cuts": found}
    reason = verdict.judge_cuts(found, known.fps, config.verdict)
    if reason is not None:
        return _dropped(row, reason)
    middles = [(cut["start"] + cut["end"]) // 2 for cut in found]
    frames = decode.frames_at(row["uri"], known.decoder, middles, config.decode.embed_pixels)
    groups = clips.groups_of(embed([frames[index] for index in middles]), embed.similarity)
    made = clips.clips_of(found, groups, scanned.sharpness)
    row = row | {"embedding": embed.name, "clips": made, "richness": verdict.richness(made)}
    reason = verdict.judge_clips(made, config.verdict)
    return _dropped(row, reason) if reason is not None else row | {"status": "kept"}
