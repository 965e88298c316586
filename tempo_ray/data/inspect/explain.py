"""A pair's id -> its origin in words: the video, what each side was shown, both texts, every
setting, every rule."""

import difflib
import textwrap
from collections.abc import Sequence
from typing import TypeVar

import pyarrow.compute as pc

from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.records import Answer, Pair, RuleResult, VideoAnswers
from tempo_ray.storage import exists, read_bytes
from tempo_ray.tables import open_dataset, records_of

Record = TypeVar("Record")

_TEXT_COLUMNS = 118


def _find(record: type[Record], folder: str, column: str, value: str) -> Record | None:
    dataset = open_dataset(folder)
    if dataset is None:
        return None
    rows = records_of(record, dataset.to_table(filter=pc.field(column) == value))
    return rows[0] if rows else None


def marked(chosen: str, rejected: str) -> tuple[str, str]:
    """Both texts, with the words in [brackets] that the other lacks at that place."""
    chosen_words, rejected_words = chosen.split(), rejected.split()
    matcher = difflib.SequenceMatcher(None, chosen_words, rejected_words, autojunk=False)
    chosen_parts: list[str] = []
    rejected_parts: list[str] = []
    for operation, a, b, c, d in matcher.get_opcodes():
        template = "{}" if operation == "equal" else "[{}]"
        if a < b:
            chosen_parts.append(template.format(" ".join(chosen_words[a:b])))
        if c < d:
            rejected_parts.append(template.format(" ".join(rejected_words[c:d])))
    return " ".join(chosen_parts), " ".join(rejected_parts)


def _clip_lines(row: VideoAnswers, order: Sequence[int]) -> list[str]:
    lines = []
    for place, index in enumerate(order, 1):
        clip = row.clips[index]
        seconds = f"{clip.start / _fps(row):.2f}-{clip.end / _fps(row):.2f} s"
        frames = list(clip.key_frames)
        lines.append(f"{place:3d}. clip {index}, {seconds}, key frames {frames}: {clip.caption}")
    return lines


def _fps(row: VideoAnswers) -> float:
    assert row.fps is not None, "an answered video was decoded"
    return row.fps


def _answer(row: VideoAnswers, answer_id: str) -> Answer:
    return next(answer for answer in row.answers if answer.answer_id == answer_id)


def _side_lines(name: str, marked_text: str, answer: Answer, row: VideoAnswers) -> list[str]:
    perturbation: str = answer.perturbation
    if answer.strength is not None:
        perturbation += f", r = {answer.strength}"
    tokens = f"{answer.prompt_tokens} + {answer.completion_tokens} tokens"
    facts = f"seed {answer.seed}, {tokens}, ended by {answer.finish_reason}"
    text = textwrap.wrap(
        marked_text, _TEXT_COLUMNS, initial_indent="  > ", subsequent_indent="  > "
    )
    return [
        f"{name} ({perturbation}; {facts}), written from these clips in this order:",
        *_clip_lines(row, answer.order),
        *text,
        "",
    ]


def _rule_line(rule: RuleResult) -> str:
    label = {True: "passed", False: "BROKEN", None: "not applicable"}[rule.passed]
    return f"  {label}  {rule.name}: {rule.detail}"


def _difficulty_line(pair: Pair) -> str:
    ratio = "none" if pair.length_ratio is None else f"{pair.length_ratio:.2f}"
    return (
        f"difficulty: order distance {pair.order_distance:.3f}, kept share {pair.kept_share:.2f}, "
        f"text distance {pair.text_distance:.3f}, length ratio {ratio}"
    )


def _settings(paths: RunPaths, config_hash: str | None) -> str:
    file = paths.config("generate_pairs", config_hash)
    text = read_bytes(file).decode() if exists(file) else f"({file} is gone)"
    return textwrap.indent(text.rstrip(), "  ")


def _video_lines(row: VideoAnswers) -> list[str]:
    size = f"{row.width}x{row.height}, {row.frames} frames, {_fps(row):g} fps"
    content = (
        f"{len(row.shots)} shots, {len(row.clips)} clips, richness {row.richness or 0:.2f} bits"
    )
    return [
        f"video {row.uri} ({size}), {content}",
        f"decoder {row.decoder}, detector {row.detector}, embedding {row.embedding}",
    ]


def explain(run: str, pair_id: str) -> str:
    """Everything behind a pair, human-readable.

    Raises UserError where the run has no such pair, or another schema version wrote it.
    """
    paths = RunPaths(run)
    pair = _find(Pair, paths.pairs, "pair_id", pair_id)
    if pair is None:
        raise UserError(
            f"no pair {pair_id} in {paths.pairs}; give a pair_id of that folder's Parquet files"
        )
    row = _find(VideoAnswers, paths.answers, "video_id", pair.video_id)
    if row is None:
        raise UserError(
            f"pair {pair_id} is of video {pair.video_id}, which has no row in {paths.answers}"
        )
    chosen, rejected = marked(pair.chosen, pair.rejected)
    lines = [
        f"pair {pair_id}",
        *_video_lines(row),
        f"answers by {pair.model} ({pair.model_hash}), form {pair.form}",
        "",
        *_side_lines("chosen", chosen, _answer(row, pair.chosen_answer_id), row),
        *_side_lines("rejected", rejected, _answer(row, pair.rejected_answer_id), row),
        f"training prompt: {pair.prompt}",
        _difficulty_line(pair),
        "rules:",
        *map(_rule_line, pair.rules),
        "",
        f"settings of the answers ({pair.config_hash}):",
        _settings(paths, pair.config_hash),
    ]
    if pair.pairs_config_hash != pair.config_hash:
        lines += [
            "",
            f"paired later, with settings ({pair.pairs_config_hash}):",
            _settings(paths, pair.pairs_config_hash),
        ]
    return "\n".join(lines)
