"""One video's answers -> its preference pairs, and which rule dropped the other candidates. Pure."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tempo_ray.config import PairsConfig
from tempo_ray.data.difficulty import length_ratio, text_distance
from tempo_ray.data.perturb import generator

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/pair")

Verdict = dict[str, Any]
Rule = Callable[[dict[str, Any], dict[str, Any], PairsConfig], tuple[bool, str]]


def _complete(
    chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig
) -> tuple[bool, str]:
    return chosen["finish_reason"] != "length", f"chosen ended by {chosen['finish_reason']}"


def _not_empty(
    chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig
) -> tuple[bool, str]:
    return bool(chosen["text"].strip() and rejected["text"].strip()), "both answers have words"


def _not_contained(
    chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig
) -> tuple[bool, str]:
    contained = chosen["text"] in rejected["text"]
    return not (
        config.forbid_substring and contained
    ), f"chosen is {'' if contained else 'not '}contained in rejected"


def _longer_for_drop(
    chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig
) -> tuple[bool, str]:
    one, other = len(chosen["text"]), len(rejected["text"])
    asked = config.require_longer_for_drop and rejected["perturbation"] == "drop"
    return not asked or one > other, f"chosen {one} characters, rejected {other}"


def _length_ratio(
    chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig
) -> tuple[bool, str]:
    one, other = len(chosen["text"]), len(rejected["text"])
    most = config.max_length_ratio
    asked = rejected["perturbation"] in ("shuffle", "reverse")
    return not asked or max(one, other) <= most * min(
        one, other
    ), f"characters {one} : {other}, at most {most} : 1"


RULES: dict[str, Rule] = {
    "chosen_complete": _complete,
    "not_empty": _not_empty,
    "chosen_not_in_rejected": _not_contained,
    "drop_chosen_longer": _longer_for_drop,
    "length_ratio": _length_ratio,
}


def judge(chosen: dict[str, Any], rejected: dict[str, Any], config: PairsConfig) -> list[Verdict]:
    """The verdict of every rule on one chosen and one rejected answer."""
    verdicts = []
    for name, rule in RULES.items():
        passed, detail = rule(chosen, rejected, config)
        verdicts.append({"name": name, "passed": passed, "detail": detail})
    return verdicts


def _candidates(row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The first clean answer of a video beside every perturbed one; further samples are for ranking later."""
    for chosen in row["answers"]:
        if chosen["perturbation"] == "clean" and chosen["sample"] == 0:
            yield from (
                (chosen, rejected)
                for rejected in row["answers"]
                if rejected["perturbation"] != "clean"
            )


def broken_rules(row: dict[str, Any], config: PairsConfig) -> list[str]:
    """For each candidate pair of one row of answers that is dropped, the first rule that it broke."""
    broken = []
    for chosen, rejected in _candidates(row):
        failed = [
            verdict["name"] for verdict in judge(chosen, rejected, config) if not verdict["passed"]
        ]
        broken += failed[:1]
    return broken


def make_pairs(
    row: dict[str, Any], describe: tuple[str, ...], config: PairsConfig, seed: int, config_hash: str
) -> list[dict[str, Any]]:
    """The pairs of one row of answers (schema.PAIR): the candidates that break no rule. `config_hash` is of the whole config.

    The training prompt is drawn from `describe` for the pair; chosen, rejected and the clean video share it.
    """
    made = []
    for chosen, rejected in _candidates(row):
        verdicts = judge(chosen, rejected, config)
        if all(verdict["passed"] for verdict in verdicts):
            made.append(
                _pair(row, chosen, rejected, verdicts, describe, seed)
                | {"pairs_config_hash": config_hash}
            )
    return made


def _pair(
    row: dict[str, Any],
    chosen: dict[str, Any],
    rejected: dict[str, Any],
    verdicts: list[Verdict],
    describe: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    pair_id = str(uuid.uuid5(_NAMESPACE, f"{chosen['answer_id']}/{rejected['answer_id']}"))
    return {
        "pair_id": pair_id,
        "video_id": row["video_id"],
        "uri": row["uri"],
        "prompt": describe[int(generator(seed, pair_id, "prompt").integers(len(describe)))],
        "chosen": chosen["text"],
        "rejected": rejected["text"],
        "form": rejected["form"],
        "perturbation": rejected["perturbation"],
        "strength": rejected["strength"],
        "chosen_order": chosen["order"],
        "rejected_order": rejected["order"],
        "order_distance": rejected["order_distance"],
        "kept_share": rejected["kept_share"],
        "text_distance": text_distance(chosen["text"], rejected["text"]),
        "length_ratio": length_ratio(chosen["text"], rejected["text"]),
        "chosen_tokens": chosen["completion_tokens"],
        "rejected_tokens": rejected["completion_tokens"],
        "chosen_answer_id": chosen["answer_id"],
        "rejected_answer_id": rejected["answer_id"],
        "rules": verdicts,
        "seed": seed,
        "model": row["model"],
        "model_hash": row["model_hash"],
        "config_hash": row["config_hash"],
    }
