"""The table of metrics against the code and the document; what real runs export is checked in
tests/integration/test_monitoring.py."""

from pathlib import Path

import torch

from tempo_ray.config import LossConfig
from tempo_ray.metrics import METRICS, TRAIN, markdown_table
from tempo_ray.train.loss import PairLogProbs, pair_losses
from tests.recorded import Recorded

DOCUMENT = Path(__file__).parent.parent / "docs/metrics.md"


def test_the_document_has_the_table() -> None:
    assert markdown_table() in DOCUMENT.read_text()


def test_names_have_one_prefix_and_occur_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("tempo_") for name in names)


def test_every_metric_of_the_loss_is_in_the_table() -> None:
    ones = torch.ones(2)
    log_probs = PairLogProbs(-ones, -2 * ones, -ones, -ones, ones.long(), ones.long())
    _, of_loss = pair_losses(log_probs, LossConfig())
    assert of_loss.keys() <= TRAIN.keys()


def test_a_counter_that_does_not_grow_leaves_no_sample(recorded: list[Recorded]) -> None:
    METRICS[0].add(0, operator="select", outcome="kept", reason="")
    assert not recorded
