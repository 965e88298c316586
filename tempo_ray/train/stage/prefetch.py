"""A rank's examples -> packed rows, read and tokenized some steps ahead of their use."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tempo_ray.train.batch import PackedRow, pack, split_into_rows
from tempo_ray.train.examples import Example
from tempo_ray.train.sequences import ExampleTokens, UnusableExample, read_example
from tempo_ray.train.stage.context import StageContext

PREFETCH_DEPTH = 2
"""Steps that are ready, or being read, beside the current one."""


@dataclass(frozen=True)
class SkippedExample:
    """Why an example was not trained on; `reason` is that of UnusableExample."""

    uri: str
    reason: str
    message: str


@dataclass(frozen=True)
class RankRows:
    """A rank's examples of one step as packed rows."""

    rows: list[PackedRow]
    skipped: list[SkippedExample]
    """Those of its examples that are in no row."""
    examples: int
    """All of its examples."""


@dataclass(frozen=True)
class Reader:
    context: StageContext
    processor: Any
    model_config: Any

    def prefetch(self, steps: Sequence[Sequence[Example]]) -> Iterator[RankRows]:
        """This rank's examples of each step -> their rows."""
        threads = max(1, int(self.context.config.workers.cpus) - 1)
        pending: deque[Future[RankRows]] = deque()
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as packer:
            for examples in steps:
                reads = [readers.submit(self._read, example) for example in examples]
                pending.append(packer.submit(self._pack, reads))
                if len(pending) > PREFETCH_DEPTH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _read(self, example: Example) -> list[ExampleTokens] | SkippedExample:
        config = self.context.config
        try:
            sequences = read_example(
                self.processor, self.model_config, example, config.frames, config.max_tokens
            )
        except UnusableExample as error:
            return SkippedExample(example.uri, error.reason, str(error))
        dtype = self.context.dtype
        return [replace(tokens, pixels=tokens.pixels.to(dtype)) for tokens in sequences]

    def _pack(self, reads: Sequence[Future[list[ExampleTokens] | SkippedExample]]) -> RankRows:
        sequences: list[ExampleTokens] = []
        skipped: list[SkippedExample] = []
        for read in reads:
            outcome = read.result()
            if isinstance(outcome, SkippedExample):
                skipped.append(outcome)
            else:
                sequences += outcome
        rows = split_into_rows(sequences, self.context.config.max_tokens)
        return RankRows([pack(row) for row in rows], skipped, len(reads))
