"""A pair's id -> where it came from, in words: the video, what each side was shown, both texts, every setting, every rule."""

import difflib
import textwrap
from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from tempo_ray.paths import RunPaths, exists, read_bytes, resolve

Row = dict[str, Any]


class UnknownPair(ValueError):
    """No such pair in the run; the message says where was looked."""


def _find(folder: str, column: str, value: str) -> Row | None:
    filesystem, path = resolve(folder)
    try:
        data = ds.dataset(path, filesystem=filesystem, format="parquet")
    except OSError:
        return None
    rows = data.to_table(filter=pc.field(column) == value).to_pylist()
    return rows[0] if rows else None


def marked(chosen: str, rejected: str) -> tuple[str, str]:
    """Both texts, the words that the other does not have at that place in [brackets]."""
    one, other = chosen.split(), rejected.split()
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, words in zip(sides, (one[a:b], other[c:d]), strict=True):
            text = " ".join(words)
            side += [text if kind == "equal" else f"[{text}]"] if words else []
    return " ".join(sides[0]), " ".join(sides[1])


def _clips(answers: Row, order: Sequence[int]) -> list[str]:
    lines = []
    for place, index in enumerate(order, 1):
        clip = answers["clips"][index]
        seconds = "-".join(f"{clip[end] / answers['fps']:.2f}" for end in ("start", "end"))
        lines.append(
            f"{place:3d}. clip {index}, {seconds} s, key frames {clip['key_frames']}: {clip['caption']}"
        )
    return lines


def _answer(answers: Row, answer_id: str) -> Row:
    return next(answer for answer in answers["answers"] if answer["answer_id"] == answer_id)


def _side(name: str, text: str, answer: Row, answers: Row) -> list[str]:
    how = (
        answer["perturbation"]
        if answer["strength"] is None
        else f"{answer['perturbation']}, r = {answer['strength']}"
    )
    facts = f"seed {answer['seed']}, {answer['prompt_tokens']} + {answer['completion_tokens']} tokens, ended by "
    return [
        f"{name} ({how}; {facts}{answer['finish_reason']}), written from these clips in this order:",
        *_clips(answers, answer["order"]),
        *textwrap.wrap(text, 118, initial_indent="  > ", subsequent_indent="  > "),
        "",
    ]


def _settings(paths: RunPaths, config_hash: str) -> str:
    file = paths.config("generate_pairs", config_hash)
    text = read_bytes(file).decode() if exists(file) else f"({file} is gone)"
    return textwrap.indent(text.rstrip(), "  ")


def explain(run: str, pair_id: str) -> str:
    """Everything behind a pair, for people. Raises UnknownPair."""
    paths = RunPaths(run)
    pair = _find(paths.pairs, "pair_id", pair_id)
    if pair is None:
        raise UnknownPair(
            f"no pair {pair_id} in {paths.pairs}; give a pair_id of that folder's Parquet files"
        )
    answers = _find(paths.answers, "video_id", pair["video_id"])
    if answers is None:
        raise UnknownPair(
            f"pair {pair_id} is of video {pair['video_id']}, and {paths.answers} has no row of it"
        )
    chosen, rejected = marked(pair["chosen"], pair["rejected"])
    hashes = {"answers": pair["config_hash"], "pairs": pair["pairs_config_hash"]}
    settings = {what: _settings(paths, of) for what, of in hashes.items()}
    lines = [
        f"pair {pair_id}",
        f"video {pair['uri']} ({answers['width']}x{answers['height']}, {answers['frames']} frames, {answers['fps']:g} fps), "
        f"{len(answers['cuts'])} cuts, {len(answers['clips'])} clips, richness {answers['richness']:.2f} bits",
        f"decoder {answers['decoder']}, detector {answers['detector']}, likeness {answers['embedding']}",
        f"answers by {pair['model']} ({pair['model_hash']}), form {pair['form']}",
        "",
        *_side("chosen", chosen, _answer(answers, pair["chosen_answer_id"]), answers),
        *_side("rejected", rejected, _answer(answers, pair["rejected_answer_id"]), answers),
        f"training prompt: {pair['prompt']}",
        f"difficulty: order distance {pair['order_distance']:.3f}, kept share {pair['kept_share']:.2f}, "
        f"text distance {pair['text_distance']:.3f}, length ratio {pair['length_ratio']:.2f}",
        "rules:",
        *(
            f"  {'passed' if rule['passed'] else 'BROKEN'}  {rule['name']}: {rule['detail']}"
            for rule in pair["rules"]
        ),
        "",
        f"settings of the answers ({hashes['answers']}):",
        settings["answers"],
    ]
    if settings["pairs"] != settings["answers"]:
        lines += ["", f"paired later, with settings ({hashes['pairs']}):", settings["pairs"]]
    return "\n".join(lines)
