"""Pre-training weighs answers as it should, is recorded, and resumes as if never interrupted."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tempo_ray import shapeworld
from tempo_ray.models.vlm import chat_text, encode
from tempo_ray.records import read_row
from tempo_ray.shapeworld import batches, build, pretrain
from tempo_ray.shapeworld.build import FAMILIES, ModelType
from tempo_ray.shapeworld.record import RECORD_FILE, PretrainRecord, PretrainSettings
from tempo_ray.shapeworld.tasks import (
    EVERYTHING,
    MIX,
    NEIGHBOURS,
    Example,
    Exchange,
    Practice,
    Show,
    Tasks,
)
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import PackedRow

SHIPPED = Path(shapeworld.__file__).parent / "models"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine, two threads take ten times as long for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(family: ModelType, **changes: Any) -> PretrainSettings:
    """Of a training of six steps, each of another kind."""
    tiny = PretrainSettings(
        family,
        letter_steps=1,
        neighbour_steps=3,
        check_every=1,
        mastery=0.0,
        language_steps=4,
        vision_steps=1,
        vision_batch=4,
        single_shot_steps=1,
        steps=6,
        batch=2,
        exchanges=3,
        row_tokens=1024,
        save_every=4,
    )
    return replace(tiny, **changes)


@pytest.fixture(scope="module", params=FAMILIES)
def network(request: pytest.FixtureRequest) -> tuple[ModelType, Any, Any]:
    """A family, a processor of it, and a model with random weights."""
    family: ModelType = request.param
    torch.manual_seed(0)
    tokenizer = build.make_tokenizer()
    model = build.make_model(family, tokenizer, hidden=64, layers=2)
    return family, build.make_processor(family, tokenizer), model


def drawn(family: ModelType, seed: int = 0) -> list[Example]:
    """One of everything that is shown."""
    tasks, rng = Tasks(family, "train", 0.8, exchanges=3), np.random.default_rng(seed)
    shows: tuple[Show, ...] = get_args(Show)
    return [tasks.draw(rng, Practice({show: 1.0}, EVERYTHING, 4)) for show in shows]


def test_an_exchange_is_tokenized_as_if_it_were_alone(
    network: tuple[ModelType, Any, Any],
) -> None:
    family, processor, model = network
    for example in drawn(family):
        (packed,) = batches.tokenize(processor, model.config, [example])
        for number, exchange in enumerate(example.exchanges, 1):
            text = chat_text(processor, (*example.shown, exchange.text))
            answer = exchange.answer + processor.tokenizer.eos_token
            alone = encode(processor, model.config, [text + answer], [example.videos])[0]
            own = (packed.segments == 0) | (packed.segments == number)
            assert np.array_equal(packed.ids[own], alone.input_ids)
            assert np.array_equal(packed.positions[:, own], alone.positions)
            answered = packed.ids[own & packed.answered]
            assert processor.tokenizer.decode(answered) == answer
        assert np.array_equal(packed.trained, packed.segments > 0)


def test_an_exchange_is_learned_as_if_it_were_alone(network: tuple[ModelType, Any, Any]) -> None:
    family, processor, model = network
    use_packed_attention(model, "sdpa")

    def predicted(examples: Sequence[Example]) -> batches.Predictions:
        sequences = batches.tokenize(processor, model.config, examples)
        return batches.predict(model, batches.collate(sequences))

    together = predicted(drawn(family))
    alone = [
        predicted([replace(example, exchanges=(exchange,))])
        for example in drawn(family)
        for exchange in example.exchanges
    ]
    logits = torch.cat([predictions.logits for predictions in alone])
    assert torch.allclose(together.logits, logits, atol=1e-4)
    loss = torch.stack([predictions.loss() for predictions in alone]).sum()
    assert torch.allclose(together.loss(), loss, rtol=1e-4)


def test_requests_and_tokens_of_long_answers_weigh_less(
    network: tuple[ModelType, Any, Any],
) -> None:
    _, processor, model = network
    exchanges = (Exchange("a", "red red red", "A"), Exchange("b", "red", "a red square grows"))
    (tokens,) = batches.tokenize(processor, model.config, [Example((), (), exchanges)])
    for number in (1, 2):
        segment = tokens.segments == number
        answer, request = segment & tokens.answered, segment & ~tokens.answered
        assert tokens.weights[answer] == pytest.approx(answer.sum() ** -0.5)
        assert tokens.weights[request] == pytest.approx(
            batches.REQUEST_WEIGHT * request.sum() ** -0.5
        )
    assert not tokens.weights[tokens.segments == 0].any()


def test_an_answer_is_right_if_all_its_tokens_are() -> None:
    row = row_of(target=[1, 1, 2, 0], answer=[0, 0, 0, 1], lengths=[3, 1])
    answered = torch.tensor([False, True, True, True])
    logits = torch.eye(3)[[0, 1, 2, 0]]  # a token of a request is wrong
    batch = batches.Batch(row, answered, torch.ones(4))
    assert batches.Predictions(logits, batch).right().tolist() == [1, 1]
    logits = torch.eye(3)[[1, 1, 0, 0]]
    assert batches.Predictions(logits, batch).right().tolist() == [0, 1]


def row_of(target: list[int], answer: list[int], lengths: list[int]) -> PackedRow:
    none = torch.zeros(0, dtype=torch.long)
    return PackedRow(
        {},
        source=torch.zeros(len(target), dtype=torch.long),
        target=torch.tensor(target),
        answer=torch.tensor(answer),
        chosen=none,
        rejected=none,
        lengths=torch.tensor(lengths),
    )


def test_what_is_practised_when() -> None:
    steps = settings("qwen3_vl")
    practices = [pretrain.practice_at(step, steps, 5) for step in range(6)]
    assert [sorted(practice.shows) for practice in practices] == [
        ["letters", "words"],
        ["letters", "words"],
        ["letters", "words"],
        ["words"],
        ["first_clip", "words"],
        sorted(MIX),
    ]
    assert [practice.longest for practice in practices[1:4]] == [5, 5, 12]
    assert practices[1].in_words == NEIGHBOURS
    assert practices[3].in_words == practices[5].in_words == EVERYTHING


@pytest.mark.slow
def test_stories_grow_when_they_are_mastered(tmp_path: Path) -> None:
    record = pretrain.pretrain(settings("qwen2_5_vl"), tmp_path / "model", lambda line: None)
    assert record.mastered == [(1, 3), (2, 4), (3, 5)]
    never = settings("qwen2_5_vl", mastery=1.01)
    record = pretrain.pretrain(never, tmp_path / "other", lambda line: None)
    assert record.mastered == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_record_is_of_todays_settings_and_mix(family: ModelType) -> None:
    row = json.loads((SHIPPED / family / RECORD_FILE).read_text())
    record = read_row(PretrainRecord, row)
    assert record.settings == PretrainSettings(family)
    assert record.mix == MIX
    assert record.examination is not None
    assert list(row) == [field.name for field in fields(PretrainRecord)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_run_ends_with_the_same_weights(family: ModelType, tmp_path: Path) -> None:
    steps = settings(family)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain.pretrain(steps, whole, lambda line: None)

    class Killed(Exception): ...

    def save_then_die(state: dict[str, object], file: Path) -> None:
        torch_save(state, file)
        file.rename(file.with_suffix(".pt"))
        raise Killed

    torch_save = torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_then_die)
        with pytest.raises(Killed):
            pretrain.pretrain(steps, halves, lambda line: None)
    lines: list[str] = []
    pretrain.pretrain(steps, halves, lines.append)
    assert lines[0] == "resumes after step 4"
    weights, resumed = (load_file(folder / "model.safetensors") for folder in (whole, halves))
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
