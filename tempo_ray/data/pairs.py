"""One video's answers -> its preference pairs, and which rules dropped the other candidates."""

import uuid
from collections.abc import Callable, Iterator

from tempo_ray.config import PairsConfig
from tempo_ray.data.difficulty import length_ratio, text_distance
from tempo_ray.data.perturb import generator
from tempo_ray.records import Answer, Pair, RuleResult, VideoAnswers

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/pair")

Rule = Callable[[Answer, Answer, PairsConfig], RuleResult]


def chosen_complete(chosen: Answer, rejected: Answer, config: PairsConfig) -> RuleResult:
    passed = chosen.finish_reason != "length"
    return RuleResult("chosen_complete", passed, f"chosen ended by {chosen.finish_reason}")


def not_empty(chosen: Answer, rejected: Answer, config: PairsConfig) -> RuleResult:
    passed = bool(chosen.text.strip() and rejected.text.strip())
    return RuleResult("not_empty", passed, "both answers have words")


def chosen_not_in_rejected(chosen: Answer, rejected: Answer, config: PairsConfig) -> RuleResult:
    name = "chosen_not_in_rejected"
    if not config.forbid_substring:
        return RuleResult(name, None, "disabled: pairs.forbid_substring=false")
    contained = chosen.text in rejected.text
    detail = f"chosen is {'' if contained else 'not '}contained in rejected"
    return RuleResult(name, not contained, detail)


def drop_chosen_longer(chosen: Answer, rejected: Answer, config: PairsConfig) -> RuleResult:
    name = "drop_chosen_longer"
    if not config.require_longer_for_drop:
        return RuleResult(name, None, "disabled: pairs.require_longer_for_drop=false")
    if rejected.perturbation != "drop":
        return RuleResult(name, None, "applies to drop")
    chosen_length, rejected_length = len(chosen.text), len(rejected.text)
    detail = f"chosen {chosen_length} characters, rejected {rejected_length}"
    return RuleResult(name, chosen_length > rejected_length, detail)


def length_ratio_bounded(chosen: Answer, rejected: Answer, config: PairsConfig) -> RuleResult:
    name = "length_ratio"
    if rejected.perturbation not in ("shuffle", "reverse"):
        return RuleResult(name, None, "applies to shuffle and reverse")
    lengths = len(chosen.text), len(rejected.text)
    passed = max(lengths) <= config.max_length_ratio * min(lengths)
    detail = f"characters {lengths[0]} : {lengths[1]}, at most {config.max_length_ratio} : 1"
    return RuleResult(name, passed, detail)


RULES: tuple[Rule, ...] = (
    chosen_complete,
    not_empty,
    chosen_not_in_rejected,
    drop_chosen_longer,
    length_ratio_bounded,
)


def judge(chosen: Answer, rejected: Answer, config: PairsConfig) -> tuple[RuleResult, ...]:
    """The result of every rule for one candidate pair."""
    return tuple(rule(chosen, rejected, config) for rule in RULES)


def broken(results: tuple[RuleResult, ...]) -> list[str]:
    """Names of the rules that drop the pair; one that does not apply drops none."""
    return [result.name for result in results if result.passed is False]


def _candidates(row: VideoAnswers) -> Iterator[tuple[Answer, Answer]]:
    """The first clean answer beside every perturbed one; further samples are for later ranking."""
    for chosen in row.answers:
        if chosen.perturbation == "clean" and chosen.sample == 0:
            for rejected in row.answers:
                if rejected.perturbation != "clean":
                    yield chosen, rejected


def broken_rules(row: VideoAnswers, config: PairsConfig) -> list[str]:
    """For each candidate pair of a video that is dropped, the first rule that it broke."""
    names = []
    for chosen, rejected in _candidates(row):
        names += broken(judge(chosen, rejected, config))[:1]
    return names


def make_pairs(
    row: VideoAnswers, describe: tuple[str, ...], config: PairsConfig, seed: int, config_hash: str
) -> list[Pair]:
    """The pairs of one video: the candidates that break no rule. `config_hash` is that of the whole
    config.

    Each pair's training prompt, which chosen and rejected share, is drawn from `describe`.
    """
    pairs = []
    for chosen, rejected in _candidates(row):
        rules = judge(chosen, rejected, config)
        if broken(rules):
            continue
        pair_id = str(uuid.uuid5(_NAMESPACE, f"{chosen.answer_id}/{rejected.answer_id}"))
        prompt = describe[int(generator(seed, pair_id, "prompt").integers(len(describe)))]
        pairs.append(
            Pair(
                pair_id=pair_id,
                video_id=row.video_id,
                uri=row.uri,
                prompt=prompt,
                chosen=chosen.text,
                rejected=rejected.text,
                form=rejected.form,
                perturbation=rejected.perturbation,
                strength=_strength(rejected),
                chosen_order=chosen.order,
                rejected_order=rejected.order,
                order_distance=rejected.order_distance,
                kept_share=rejected.kept_share,
                text_distance=text_distance(chosen.text, rejected.text),
                length_ratio=length_ratio(chosen.text, rejected.text),
                chosen_tokens=chosen.completion_tokens,
                rejected_tokens=rejected.completion_tokens,
                chosen_answer_id=chosen.answer_id,
                rejected_answer_id=rejected.answer_id,
                rules=rules,
                seed=seed,
                model=row.model,
                model_hash=row.model_hash,
                config_hash=row.config_hash,
                pairs_config_hash=config_hash,
            )
        )
    return pairs


def _strength(rejected: Answer) -> int:
    assert rejected.strength is not None, "every perturbation has a strength"
    return rejected.strength
