"""One video -> its cuts, clips and verdict, decoded once: a row of schema.ANSWERS without answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tempo_ray.config import SelectConfig
from tempo_ray.data import clips, cuts, decode, verdict
from tempo_ray.data.isolate import Crashed, Isolated, Limits
from tempo_ray.data.retry import Passing, patiently
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


@dataclass(frozen=True)
class Look:
    """What one decoding pass leaves of a video: facts of its row, the sharpness of every frame, and a frame of every cut."""

    facts: Row
    sharpness: np.ndarray | None = None
    middles: tuple[np.ndarray, ...] = ()


def dropped(reason: str) -> Row:
    return {"status": "dropped", "reason": reason}


def failed(reason: str, at: str, error: Exception) -> Row:
    return {"status": "failed", "reason": reason, "failed_at": at, "message": str(error)}


def look(given: tuple[str, SelectConfig]) -> Look:
    """Decodes a file. A bad one does not raise: its facts say why it is dropped or failed.

    Raises OSError where the file cannot be read for another reason than that it is not there.
    """
    uri, config = given
    try:
        with decode.opened(uri) as source:
            return _looked(source, config)
    except UnreadableVideo as error:
        return Look(failed("not a video", "open", error))
    except FileNotFoundError as error:
        return Look(failed("not there", "open", error))


def _looked(source: decode.Source, config: SelectConfig) -> Look:
    with decode.reading(source) as video:
        known = video.known
        facts: Row = {"frames": known.frames, "fps": known.fps, "width": known.width, "height": known.height}
        if known.seconds > config.decode.max_seconds:
            return Look(facts | dropped(f"too long ({known.seconds:.0f} s > {config.decode.max_seconds:g} s)"))
        most = int(config.decode.max_seconds * known.fps)  # what the container announces may be less than what it holds
        try:
            scanned = cuts.scan(video.small(config.decode, most + 1), known.fps, config.cuts)
        except UnreadableVideo as error:
            return Look(facts | failed("undecodable", "decode", error))
    if scanned.frames > most:
        return Look(facts | dropped(f"too long (over {config.decode.max_seconds:g} s, more than announced)"))
    found = cuts.cuts_of(scanned, known.fps, config.cuts)
    facts |= {"frames": scanned.frames, "detector": cuts.DETECTOR, "cuts": found}
    reason = verdict.judge_cuts(found, known.fps, config.verdict)
    if reason is not None:
        return Look(facts | dropped(reason))
    facts["decoder"] = decoder = decode.decoder_of(source, video.times)
    if config.clips.encoder is None:  # the descriptor needs no more than the small frames
        return Look(facts, scanned.sharpness, tuple(cuts.middles_of(scanned, known.fps, config.cuts)))
    middles = [(cut["start"] + cut["end"]) // 2 for cut in found]
    try:
        frames = decode.frames_at(source, decoder, middles, config.decode.embed_pixels)
    except UnreadableVideo as error:
        return Look(facts | failed("undecodable", "decode", error))
    return Look(facts, scanned.sharpness, tuple(frames[index] for index in middles))


def judged(seen: Look, config: SelectConfig, embed: clips.Embed) -> Row:
    """The facts of a video with its clips, richness and verdict."""
    if seen.sharpness is None:
        return seen.facts
    groups = clips.groups_of(embed(seen.middles), embed.similarity)
    made = clips.clips_of(seen.facts["cuts"], groups, seen.sharpness)
    facts = seen.facts | {"embedding": embed.name, "clips": made, "richness": verdict.richness(made)}
    reason = verdict.judge_clips(made, facts["richness"], config.verdict)
    return facts | (dropped(reason) if reason is not None else {"status": "kept"})


class Selector:
    """Rows of schema.VIDEO in, rows of schema.ANSWERS out. Never raises for a file: it becomes a failed row that says why.

    Files are decoded in a process of their own, within `config.decode`'s limits of time and memory.
    """

    def __init__(self, config: SelectConfig, embed: clips.Embed) -> None:
        self._config = config
        self._embed = embed
        self._look = Isolated(look, Limits(config.decode.timeout_s, config.decode.memory_bytes))

    def __call__(self, video: Row) -> Row:
        row = {"video_id": video["video_id"], "uri": video["uri"]} | EMPTY
        try:
            seen = patiently(lambda: self._look((video["uri"], self._config)), self._config.decode.attempts, Crashed, OSError)
        except Crashed as error:
            return row | failed("decoder crashed", "decode", error)
        except Passing as error:
            return row | failed(PASSING, "open", error)
        return row | judged(seen, self._config, self._embed)

    def close(self) -> None:
        self._look.close()


PASSING = "cannot be read now"
"""The reason of a failure that another run may not meet: such a row is not kept in answers/, and the video is tried again."""
