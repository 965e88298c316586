"""Metrics of each step -> experiment trackers, through accelerate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempo_ray.records import StepMetrics
from tempo_ray.train.stage.context import StageContext


class Trackers:
    """The trackers of one stage; for rank 0 alone."""

    def __init__(
        self, context: StageContext, tensorboard: Path, history: Sequence[StepMetrics]
    ) -> None:
        """`history` is logged again if this machine has no curves of the stage yet."""
        # imported here: it takes a second, and only rank 0 needs it
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # accelerate's logging needs it; the process group exists already
        self._stage = context.spec.name
        self._trackers: list[Any] = []
        without_curves = not tensorboard.exists()
        for name in context.config.trackers:
            tracker_class = LOGGER_TYPE_TO_CLASS[name]
            run_name = tensorboard.name if name == "tensorboard" else "tempo_ray"
            options = {}
            if tracker_class.requires_logging_directory:
                options["logging_dir"] = str(tensorboard.parent)
            tracker = tracker_class(run_name=run_name, **options)
            tracker.start()
            self._trackers.append(tracker)
        if without_curves:
            for metrics in history:
                self.log(metrics)

    def log(self, metrics: StepMetrics) -> None:
        named = {f"{self._stage}/{name}": value for name, value in metrics.items()}
        for tracker in self._trackers:
            tracker.log(named, step=int(metrics["step"]))

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
