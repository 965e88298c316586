"""What a stage trains on: a video with its preference pairs, or a conversation about a video.

Tested in tests/train/test_curriculum.py and test_sequences.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptPairs:
    """A prompt about a video, its chosen answer, and the answers rejected in favour of it."""

    prompt: str
    chosen: str
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class VideoPairs:
    """All preference pairs of a stage about one video, by prompt and chosen answer.

    They become one sequence, in which the video occurs once.
    """

    uri: str
    prompts: tuple[PromptPairs, ...]

    @property
    def pairs(self) -> int:
        return sum(len(prompt.rejected) for prompt in self.prompts)


@dataclass(frozen=True)
class Conversation:
    """An instruction-tuning example: questions about one video, and their answers."""

    uri: str
    parts: tuple[str | None, ...]
    """The first question; None stands for the video."""
    answer: str
    turns: tuple[tuple[str, str], ...] = ()
    """Further questions, each with its answer."""
    system: str | None = None

    @property
    def pairs(self) -> int:
        """None of its answers is rejected."""
        return 0


Example = VideoPairs | Conversation
