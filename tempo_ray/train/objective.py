"""What a stage minimises: DPO on preference pairs, or SFT on conversations."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor

from tempo_ray.config import AdaptiveConfig, AlignConfig, SftConfig, TrainConfig
from tempo_ray.records import ObjectiveName
from tempo_ray.train.batch import PackedRow
from tempo_ray.train.examples import Conversation, Example, PromptPairs, VideoPairs
from tempo_ray.train.loss import PairLogProbs, kl_estimate, pair_losses
from tempo_ray.train.policy import Policy, sum_by_answer


class Objective(Protocol):
    """A loss with the settings that belong to it. The loss of a step is the mean over its units."""

    name: ClassVar[ObjectiveName]
    unit: ClassVar[str]
    """`pairs` or `answer_tokens`."""
    dummy: ClassVar[Example]
    """The smallest example with the structure of the objective's own."""

    @property
    def config(self) -> AlignConfig | SftConfig:
        """Its adapter, optimiser and trained parts."""

    @property
    def epochs(self) -> int: ...

    @property
    def step_size(self) -> int:
        """Sum of the sizes of a step's examples, over all ranks."""

    @property
    def needs_reference(self) -> bool: ...

    @property
    def adaptive(self) -> AdaptiveConfig | None:
        """When a stage ends early; None: never."""

    def size(self, example: Example) -> int:
        """What an example counts towards `step_size`."""

    def units(self, row: PackedRow) -> int: ...

    def separate_reference(self, start: str, initial: str) -> str | None:
        """The model to load as the reference: `start` is the stage's own starting model, `initial`
        the run's. None: no reference, or it is the policy without its adapter."""

    def losses(
        self, policy: Policy, row: PackedRow
    ) -> tuple[Float[Tensor, "units"], dict[str, Float[Tensor, "units"]]]:
        """The loss of each unit of a row, and its metrics without gradient."""


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation and its relatives (train/loss.py), plus NLL of chosen."""

    config: AlignConfig
    name: ClassVar[ObjectiveName] = "dpo"
    unit: ClassVar[str] = "pairs"
    dummy: ClassVar[Example] = VideoPairs("", (PromptPairs(".", "a", ("b",)),))

    @property
    def epochs(self) -> int:
        return self.config.curriculum.epochs

    @property
    def step_size(self) -> int:
        return self.config.pairs_per_step

    @property
    def needs_reference(self) -> bool:
        return self.config.loss.type != "simpo"

    @property
    def adaptive(self) -> AdaptiveConfig | None:
        return self.config.curriculum.adaptive

    def size(self, example: Example) -> int:
        return example.pairs

    def units(self, row: PackedRow) -> int:
        return len(row.chosen)

    def separate_reference(self, start: str, initial: str) -> str | None:
        if not self.needs_reference:
            return None
        reference = start if self.config.reference == "stage" else initial
        if self.config.lora is not None and reference == start:
            return None
        return reference

    def losses(
        self, policy: Policy, row: PackedRow
    ) -> tuple[Float[Tensor, "pairs"], dict[str, Float[Tensor, "pairs"]]]:
        if not self.needs_reference:
            answers = sum_by_answer(policy.log_probs(row), row)
            return pair_losses(_by_pair(answers, None, row), self.config.loss)
        logps, reference = policy.log_probs_with_reference(row)
        answers, reference_answers = sum_by_answer(logps, row), sum_by_answer(reference, row)
        losses, metrics = pair_losses(_by_pair(answers, reference_answers, row), self.config.loss)
        kl = sum_by_answer(kl_estimate(logps.detach(), reference), row) / row.lengths
        return losses, metrics | {"kl": kl[row.chosen]}


def _by_pair(
    answers: Float[Tensor, "answers"],
    reference: Float[Tensor, "answers"] | None,
    row: PackedRow,
) -> PairLogProbs:
    """Log-probs of whole answers -> of the pairs that they form."""
    chosen, rejected = row.chosen, row.rejected
    return PairLogProbs(
        chosen=answers[chosen],
        rejected=answers[rejected],
        reference_chosen=None if reference is None else reference[chosen],
        reference_rejected=None if reference is None else reference[rejected],
        chosen_tokens=row.lengths[chosen],
        rejected_tokens=row.lengths[rejected],
    )


@dataclass(frozen=True)
class Sft:
    """Supervised fine-tuning: negative log-likelihood of the answers."""

    config: SftConfig
    name: ClassVar[ObjectiveName] = "sft"
    unit: ClassVar[str] = "answer_tokens"
    dummy: ClassVar[Example] = Conversation("", (None, "."), "a")
    needs_reference: ClassVar[bool] = False
    adaptive: ClassVar[None] = None

    @property
    def epochs(self) -> int:
        return self.config.epochs

    @property
    def step_size(self) -> int:
        return self.config.conversations_per_step

    def size(self, example: Example) -> int:
        return 1

    def units(self, row: PackedRow) -> int:
        return len(row.target)

    def separate_reference(self, start: str, initial: str) -> str | None:
        return None

    def losses(
        self, policy: Policy, row: PackedRow
    ) -> tuple[Float[Tensor, "answer_tokens"], dict[str, Float[Tensor, "answer_tokens"]]]:
        return -policy.log_probs(row), {}


def objective_of(name: ObjectiveName, config: TrainConfig) -> Dpo | Sft:
    return Dpo(config.align) if name == "dpo" else Sft(config.sft)
