"""The card and the curves of a model."""

from pathlib import Path

from tempo_ray.config import TrainConfig
from tempo_ray.records import StageSpec
from tempo_ray.train.run.model_card import draw_curves, model_card
from tests.train.run.test_plan import stage_result


def test_the_card_has_a_row_per_stage_and_the_config() -> None:
    config = TrainConfig.model_validate({"run": "/r", "model": "m", "recipe": "align"})
    spec = StageSpec("align-8", "dpo", 0, "content", "digest")
    card = model_card(config, [stage_result(spec)])
    assert "| align-8 | 2 | 1 | 1 | 3 | 1 | 0.7000 | 0.6000 |  | 0.00 |" in card
    assert config.to_yaml() in card
    assert config.hash() in card


def test_curves_of_stages_with_and_without_a_metric(tmp_path: Path) -> None:
    histories = {
        "align-8": [
            {"step": 1.0, "loss": 0.7, "accuracy": 0.5, "kl": 0.1},
            {"step": 2.0, "loss": 0.6, "accuracy": 0.7, "kl": 0.2, "held_out_accuracy": 0.6},
        ],
        "sft": [{"step": 1.0, "loss": 2.0}],
    }
    draw_curves(histories, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
