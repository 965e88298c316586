"""One video -> its cuts, clips and verdict, decoded once: a row of schema.ANSWERS without answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tempo_ray.config import SelectConfig
from tempo_ray.data import clips, cuts, decode, verdict
from tempo_ray.data.isolate import Crashed, Isolated, Limits, TookTooLong
from tempo_ray.models.frames import UnreadableVideo
from tempo_ray.retry import Passing, patiently

Row = dict[str, Any]
Given = TypeVar("Given")
Made = TypeVar("Made")

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
    """What one decoding pass leaves of a video: the facts of its row; what the frames look like where they say no verdict yet;
    and a frame of every cut where the cuts are known.
    """

    facts: Row
    scan: cuts.Scan | None = None
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
        facts: Row = {
            "frames": known.frames,
            "fps": known.fps,
            "width": known.width,
            "height": known.height,
        }
        if known.seconds > config.decode.max_seconds:
            return Look(
                facts
                | dropped(f"too long ({known.seconds:.0f} s > {config.decode.max_seconds:g} s)")
            )
        most = int(
            config.decode.max_seconds * known.fps
        )  # what the container announces may be less than what it holds
        try:
            scanned = cuts.scan(video.small(config.decode, most + 1), known.fps, config.cuts)
        except UnreadableVideo as error:
            return Look(facts | failed("undecodable", "decode", error))
    if scanned.frames > most:
        return Look(
            facts | dropped(f"too long (over {config.decode.max_seconds:g} s, more than announced)")
        )
    facts |= {"frames": scanned.frames, "detector": cuts.DETECTORS[config.cuts.detector]}
    if scanned.thumbnails is not None:
        return Look(facts | {"decoder": decode.decoder_of(source, video.times)}, scanned)
    facts = with_cuts(facts, scanned, scanned.shots, config)
    if facts.get("status"):
        return Look(facts)
    facts["decoder"] = decoder = decode.decoder_of(source, video.times)
    # the descriptor needs no more than the small frames
    if config.clips.encoder is None:
        return Look(facts, scanned, tuple(cuts.middles_of(scanned, facts["cuts"])))
    try:
        return Look(facts, scanned, _middles(source, decoder, facts["cuts"], config))
    except UnreadableVideo as error:
        return Look(facts | failed("undecodable", "decode", error))


def _middles(
    source: decode.Source, decoder: str, found: Sequence[Row], config: SelectConfig
) -> tuple[np.ndarray, ...]:
    wanted = [(cut["start"] + cut["end"]) // 2 for cut in found]
    frames = decode.frames_at(source, decoder, wanted, config.decode.embed_pixels)
    return tuple(frames[index] for index in wanted)


def look_again(given: tuple[str, str, Sequence[Row], SelectConfig]) -> tuple[np.ndarray, ...]:
    """A frame of each cut. Raises UnreadableVideo and OSError."""
    uri, decoder, found, config = given
    with decode.opened(uri) as source:
        return _middles(source, decoder, found, config)


def with_cuts(
    facts: Row, scanned: cuts.Scan, shots: Sequence[cuts.Span], config: SelectConfig
) -> Row:
    """The facts with the cuts, and dropped where these say so."""
    found = cuts.cuts_of(scanned, shots, facts["fps"], config.cuts)
    reason = verdict.judge_cuts(found, facts["fps"], config.verdict)
    return facts | {"cuts": found} | ({} if reason is None else dropped(reason))


def judged(seen: Look, config: SelectConfig, embed: clips.Embed) -> Row:
    """The facts of a video whose cuts are known, with its clips, richness and verdict."""
    if seen.scan is None:
        return seen.facts
    groups = clips.groups_of(embed(seen.middles), embed.similarity)
    made = clips.clips_of(seen.facts["cuts"], groups, seen.scan.sharpness)
    facts = seen.facts | {
        "embedding": embed.name,
        "clips": made,
        "richness": verdict.richness(made),
    }
    reason = verdict.judge_clips(made, facts["richness"], config.verdict)
    return facts | (dropped(reason) if reason is not None else {"status": "kept"})


class Selector:
    """Rows of schema.VIDEO in, rows of schema.ANSWERS out. Never raises for a file: it becomes a failed row that says why.

    Files are decoded in a process of their own, within `config.decode`'s limits of time and memory; the networks, where there
    are some, run in this one.
    """

    def __init__(self, config: SelectConfig) -> None:
        self._config = config
        self._embed = clips.make_embed(config.clips)
        self._shots = cuts.TransNetV2(config.cuts) if config.cuts.detector == "transnetv2" else None
        self._apart = Isolated(Limits(config.decode.timeout_s, config.decode.memory_bytes))

    def __call__(self, video: Row) -> Row:
        row = {"video_id": video["video_id"], "uri": video["uri"]} | EMPTY
        try:
            return row | self._facts(video["uri"])
        except UnreadableVideo as error:
            return row | failed("undecodable", "decode", error)
        except Crashed as error:
            return row | failed("decoder crashed", "decode", error)
        except TookTooLong as error:
            return row | failed("decoder too slow", "decode", error)
        except Passing as error:
            return row | failed(PASSING, "open", error)
        except Exception as error:  # noqa: BLE001, of libraries fed with strangers' files; one file must not end the job
            return row | failed(
                "not understood", "decode", RuntimeError(f"{type(error).__name__}: {error}")
            )

    def _facts(self, uri: str) -> Row:
        seen = self._patiently(look, (uri, self._config))
        if self._shots is not None and seen.scan is not None and seen.scan.thumbnails is not None:
            facts = with_cuts(
                seen.facts, seen.scan, self._shots(seen.scan.thumbnails), self._config
            )
            if facts.get("status"):
                return facts
            middles = self._patiently(
                look_again, (uri, facts["decoder"], facts["cuts"], self._config)
            )
            seen = Look(facts, seen.scan, middles)
        return judged(seen, self._config, self._embed)

    def _patiently(self, function: Callable[[Given], Made], given: Given) -> Made:
        return patiently(
            lambda: self._apart(function, given), self._config.decode.attempts, Crashed, OSError
        )

    @property
    def pid(self) -> int | None:
        """The process that decodes."""
        return self._apart.pid

    def close(self) -> None:
        self._apart.close()


PASSING = "cannot be read now"
"""The reason of a failure that another run may not meet: such a row is not kept in answers/, and the video is tried again."""
