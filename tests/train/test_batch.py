"""Sequences packed into rows."""

from pathlib import Path

from tempo_ray.train.batch import pack, split_into_rows
from tests.train.packed import ANSWERS, examples_of, processor_and_config, read_all


def test_pairs_and_lengths_of_a_row(models: dict[str, Path], videos: list[str]) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    row = pack(read_all(processor, config, examples_of(videos)))
    assert row.chosen.tolist() == [0, 0, 0, 4]
    assert row.rejected.tolist() == [1, 2, 3, 5]
    texts = [processor.tokenizer.decode(row.target[row.answer == number]) for number in range(7)]
    answers = (*ANSWERS, ANSWERS[1], ANSWERS[3], ANSWERS[2])
    assert texts == [answer + "<|im_end|>" for answer in answers]
    assert row.lengths.tolist() == [len(processor.tokenizer(text)["input_ids"]) for text in texts]


def test_rows_stay_under_the_budget_and_lose_nothing(
    models: dict[str, Path], videos: list[str]
) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    sequences = read_all(processor, config, examples_of(videos)) * 3
    budget = 2 * max(map(len, sequences))
    rows = split_into_rows(sequences, budget)
    assert sum(map(len, rows)) == len(sequences)
    assert all(sum(map(len, row)) <= budget for row in rows)
    assert len(rows) < len(sequences) / 2
    for row in rows:
        assert pack(row).inputs["input_ids"].shape == (1, sum(map(len, row))), "padded"
    assert split_into_rows([], budget) == []
