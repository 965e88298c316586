"""What arms have in common is one job; mistakes are named before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tempo_ray.config import StudyConfig
from tempo_ray.config.load import SHIPPED, load_config
from tempo_ray.errors import UserError
from tempo_ray.study.plan import make_plan

ARMS: dict[str, Any] = {
    "sft": {"train": {"recipe": "sft"}},
    "tempo": {"train": {"recipe": "pre_sft"}},
    "mixed": {"train": {"recipe": "pre_sft", "align": {"curriculum": {"schedule": "mixed"}}}},
}


def config_of(arms: dict[str, Any] = ARMS, **keys: Any) -> StudyConfig:
    values = {"run": "/study", "baseline": "sft", "seeds": (0, 1), "arms": arms} | keys
    return StudyConfig.model_validate(values)


def test_arms_share_corpora_and_pairs() -> None:
    plan = make_plan(config_of())
    jobs = [step.job for step in plan.steps]
    assert jobs.count("make-shapeworld") == 4  # training and test videos of two seeds
    assert jobs.count("generate-pairs") == 2
    assert jobs.count("train") == 6
    assert len({trained.folder for trained in plan.trained}) == 6
    assert len({trained.questions for trained in plan.trained}) == 2


def test_a_job_comes_after_what_it_needs() -> None:
    plan = make_plan(config_of())
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.needs) <= seen
        seen.add(step.folder)


def test_an_arm_can_train_on_the_pairs_of_several_models() -> None:
    both = [{}, {"respond": {"model": "builtin:qwen3_vl"}}]
    plan = make_plan(config_of(ARMS | {"both": {"pairs": both}}))
    assert [step.job for step in plan.steps].count("generate-pairs") == 4
    step = next(step for step in plan.steps if step.folder == plan.trained[3].folder)
    assert sum("generate-pairs" in folder for folder in step.needs) == 2


def test_instructions_about_order_have_a_corpus_of_their_own_and_the_same_videos() -> None:
    plan = make_plan(config_of(ARMS | {"order": {"order_share": 0.25}}))
    jobs = [step.job for step in plan.steps]
    assert jobs.count("make-shapeworld") == 6
    assert jobs.count("generate-pairs") == 2


def test_given_data_are_drawn_by_nobody() -> None:
    given = {"videos": "s3://b/v", "instructions": "s3://b/i.json", "questions": "s3://b/q.jsonl"}
    plan = make_plan(config_of(given=given, storage="s3://b/study"))
    assert {step.job for step in plan.steps} == {"generate-pairs", "train"}
    assert all(step.folder.startswith("s3://b/study/runs/") for step in plan.steps)


@pytest.mark.parametrize(
    ("arms", "keys", "message"),
    [
        ({"sft": {}, "b": {"train": {"recipe": "align"}}}, {"baseline": "c"}, "none of the arms"),
        (ARMS, {"seeds": (0, 0)}, "one of them is there twice"),
        (ARMS | {"a b": {}}, {}, "a name has letters"),
    ],
)
def test_mistakes_are_named(arms: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(arms, **keys)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"train": {"align": {"curriculm": {}}}}, r"arms\.x: align\.curriculm: no such key"),
        ({"pairs": [{"respond": {"from": "clip"}}]}, r"arms\.x: respond\.from: no such key"),
        ({"train": {"recipe": "pre_sft", "seed": 5}}, "arms tempo and x are the same"),
    ],
)
def test_an_unknown_field_is_named_with_its_arm(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(config_of(ARMS | {"x": arm}))


def test_another_config_file_makes_other_jobs(tmp_path: Path) -> None:
    """Else an edited file would be answered with what the old one made."""
    file = tmp_path / "mine.yaml"
    folders = []
    for rank in (4, 8, 4):
        tree = yaml.safe_load((SHIPPED / "embedded.yaml").read_text())
        tree["train"]["align"]["lora"]["rank"] = rank
        file.write_text(yaml.safe_dump(tree))
        folders.append(
            [trained.folder for trained in make_plan(config_of(config=str(file))).trained]
        )
    assert folders[0] == folders[2]
    assert not set(folders[0]) & set(folders[1])


def test_a_study_is_read_from_words() -> None:
    words = ["baseline=sft", "arms={sft: {train: {recipe: sft}}, tempo: {}}"]
    assert set(load_config(StudyConfig, None, words).arms) == {"sft", "tempo"}
