"""A run directory -> where each hand-off lives in it.

Tested by tests/integration/test_generate_pairs.py and tests/integration/test_train.py.
"""

from dataclasses import dataclass

from tempo_ray.storage import join


@dataclass(frozen=True)
class RunPaths:
    """Every path of a run. `root` is a local path or any URI that Arrow knows (s3://, gs://)."""

    root: str

    def config(self, job: str, config_hash: str | None = None) -> str:
        """The resolved config of a job: the last one, or the one of that hash."""
        name = f"{job}.yaml" if config_hash is None else f"{job}-{config_hash}.yaml"
        return join(self.root, "config", name)

    @property
    def answer_settings(self) -> str:
        """What every answer of the run depends on, as it was when the run began."""
        return join(self.root, "config", "answer_settings.json")

    def summary(self, job: str) -> str:
        """What a job did, in numbers; written when it ends, successfully or not."""
        return join(self.root, "summary", f"{job}.json")

    @property
    def videos(self) -> str:
        """The manifest: one row per input file."""
        return join(self.root, "videos")

    @property
    def answers(self) -> str:
        """One row per video: shots, clips, captions, answers, or why there are none."""
        return join(self.root, "answers")

    @property
    def answers_checkpoint(self) -> str:
        """Ray Data's row-id checkpoint of the answers."""
        return join(self.root, "answers_checkpoint")

    @property
    def failures(self) -> str:
        """Videos that failed transiently; the next run retries them."""
        return join(self.root, "failures")

    @property
    def pairs(self) -> str:
        return join(self.root, "pairs")

    @property
    def export(self) -> str:
        """Pairs in the formats of other trainers."""
        return join(self.root, "export")

    @property
    def train(self) -> str:
        """Ray Train's storage and the checkpoints of unfinished stages; and the curves, which
        stay."""
        return join(self.root, "train")

    def checkpoints(self, stage: str) -> str:
        """What an unfinished stage resumes from."""
        return join(self.root, "train", "checkpoints", stage)

    @property
    def tensorboard(self) -> str:
        return join(self.root, "train", "tensorboard")

    def stage(self, name: str) -> str:
        """Output of a finished stage: adapter/, merged/ and stage.json."""
        return join(self.root, "stages", name)

    @property
    def model(self) -> str:
        """The merged model at the end of training, in the Hugging Face layout."""
        return join(self.root, "model")

    def scores(self, model: str) -> str:
        """One row per question that a model was asked."""
        return join(self.root, "scores", f"{model}.parquet")
