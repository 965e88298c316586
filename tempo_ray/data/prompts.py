"""What to ask -> the parts of a user message: text, and which clips are shown where.

All wording of the project is here. A model's `generation_config.json` does not say how to prompt
it, so a model folder may have a `tempo_ray.json` with `{"prompts": NAME}`; without one it is
prompted with `DEFAULT`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CAPTION_MARK = "Caption:"


@dataclass(frozen=True)
class Show:
    """One video in the message: the key frames of these clips, in this order."""

    clips: tuple[int, ...]


Part = str | Show


@dataclass(frozen=True)
class PromptSet:
    """The wording for one kind of model."""

    first_clip: str
    next_clip: str
    whole_from_captions: str
    whole_from_clips: str
    describe: tuple[str, ...]
    """Paraphrases of "describe this video in order", for answers and for training."""

    def caption_first_clip(self, clip: int) -> list[Part]:
        return [Show((clip,)), self.first_clip]

    def caption_next_clip(self, previous: int, clip: int) -> list[Part]:
        """The difference caption: the clip before is shown as context."""
        return [Show((previous,)), Show((clip,)), self.next_clip]

    def whole_by_caption(self, captions: Sequence[str]) -> list[Part]:
        lines = "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1))
        return [self.whole_from_captions.format(captions=lines)]

    def whole_by_clip(self, order: Sequence[int]) -> list[Part]:
        shown: list[Part] = [Show((clip,)) for clip in order]
        return [*shown, self.whole_from_clips]

    def whole_by_video(self, order: Sequence[int], paraphrase: int) -> list[Part]:
        return [Show(tuple(order)), self.describe[paraphrase % len(self.describe)]]


def read_caption(text: str) -> str:
    """What follows the last `Caption:`, or the whole text without one; white space folded."""
    return " ".join(text.rsplit(CAPTION_MARK, 1)[-1].split())


DEFAULT = PromptSet(
    first_clip=(
        "These frames are one clip of a longer video. Say in one or two sentences what can be "
        f"seen and what happens. Write only the caption, after the word '{CAPTION_MARK}'."
    ),
    next_clip=(
        "You are shown two neighbouring clips of one video: the earlier one first, the later "
        "one second. First say what the second clip shows. Next say what links it to the first: "
        "what stays, what changes, what is new. "
        f"At the end write '{CAPTION_MARK}' and then one or two sentences that caption the second "
        "clip alone, precise enough that a reader who knows the first clip can follow."
    ),
    whole_from_captions=(
        "A video was cut into clips. Here is a caption of each clip, in the order of the video:\n"
        "{captions}\n"
        "Write one connected description of the whole video from these captions. Follow their "
        "order from the first to the last, leave none out, add nothing that they do not say, "
        "and make plain what comes before and what comes after. Do not speak of clips or "
        "captions."
    ),
    whole_from_clips=(
        "You are shown the clips of one video, in order. Write one connected description of the "
        "whole video: follow the clips from the first to the last, leave none out, and make "
        "plain what comes before and what comes after. Do not speak of clips."
    ),
    describe=(
        "Describe this video in detail, in the order in which things happen.",
        "What takes place in this video, from its beginning to its end? Give a full account.",
        "Tell the story of this video step by step, leaving out nothing that matters.",
        "Go through the video from start to finish and describe every event in turn.",
        "Write a thorough description of the video that keeps to the order of its events.",
        "Recount in detail what the video shows, one event after another.",
    ),
)

# Short, so that models of a few million parameters spend their tokens on the answer.
SHAPEWORLD = PromptSet(
    first_clip="What happens in this clip?",
    next_clip="What is new in the second clip, and what happens in it?",
    whole_from_captions="{captions}\nTell all of this in order.",
    whole_from_clips="Tell what happens in these clips in order.",
    describe=(
        "Describe this video in order.",
        "What happens in this video from start to end?",
        "Tell the story of this video step by step.",
        "Go through this video and describe every event.",
        "Write a description of all events of this video.",
        "Recount what this video shows, one event after another.",
    ),
)

PROMPT_SETS = {"default": DEFAULT, "shapeworld": SHAPEWORLD}
