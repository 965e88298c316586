"""A stage's examples and the model it starts from -> trained weights: what every rank runs."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence

import torch.distributed as dist

from tempo_ray.models.check import InvalidModel
from tempo_ray.models.vlm import load_model_config, load_processor
from tempo_ray.records import StageResult, StepMetrics, Stopped
from tempo_ray.train.curriculum import assign_examples, hold_out
from tempo_ray.train.examples import Example
from tempo_ray.train.policy import Policy
from tempo_ray.train.sequences import dummy_tokens
from tempo_ray.train.stage import checkpoints, zero
from tempo_ray.train.stage.collectives import broadcast
from tempo_ray.train.stage.context import StageContext, StageIO
from tempo_ray.train.stage.health import find_problem, plateaued, too_many_skipped
from tempo_ray.train.stage.prefetch import RankRows, Reader
from tempo_ray.train.stage.result import stage_result, write_output
from tempo_ray.train.stage.step import Progress, StepRunner
from tempo_ray.train.stage.trackers import Trackers

PROGRESS_LINES = 20
SHOWN = ("loss", "accuracy", "margin")
"""Metrics in a line of progress."""
HELD_OUT_BATCH = 4
"""Held-out examples that a rank has in memory at a time."""


def train_stage(
    context: StageContext, examples: Sequence[Example], io: StageIO
) -> StageResult | Stopped:
    """Trains the stage, resuming from its last checkpoint. All ranks must call it.

    Rank 0 writes adapter/, merged/, history.jsonl and skipped.jsonl to io.output; a stopped stage
    writes nothing.
    """
    began = time.monotonic()
    if not checkpoints.is_shared(io.checkpoints):
        return Stopped(
            f"not all workers see {io.checkpoints}: run= must be on a disk that all nodes share, "
            "or a URI"
        )
    try:
        policy, progress = _start_or_resume(context, io)
    except InvalidModel as error:
        return Stopped(str(error))
    loop = _Loop(context, examples, io, policy, progress)
    start_seconds = time.monotonic() - began
    stopped = loop.run() or loop.check_trained()
    if stopped is not None:
        return stopped
    loop.write_output()
    return stage_result(
        context,
        loop.examples,
        progress,
        len(loop.assignments),
        start_seconds,
        time.monotonic() - began,
    )


def _start_or_resume(context: StageContext, io: StageIO) -> tuple[Policy, Progress]:
    """The policy as the last complete checkpoint has it, or as the stage begins."""
    checkpoint = broadcast(checkpoints.find_latest(io.checkpoints))
    if checkpoint is None:
        policy, progress = zero.make_policy(context), Progress()
        if dist.get_rank() == 0:
            shutil.rmtree(io.tensorboard, ignore_errors=True)  # curves of an earlier training
        return policy, progress
    resharded = checkpoint.workers != dist.get_world_size()
    universal = resharded and context.config.deepspeed.zero_stage > 0
    folder = checkpoints.open_local(checkpoint, universal)
    policy = zero.make_policy(context, universal)
    _, state = policy.engine.load_checkpoint(folder, tag=checkpoints.TAG, load_module_strict=False)
    checkpoints.delete_copies(checkpoint)
    progress = Progress.from_state(state["progress"])
    if dist.get_rank() == 0:
        io.log(f"{context.spec.name}  resumes after step {progress.step}")
    return policy, progress


class _Loop:
    """The steps of a stage on one rank."""

    def __init__(
        self,
        context: StageContext,
        examples: Sequence[Example],
        io: StageIO,
        policy: Policy,
        progress: Progress,
    ) -> None:
        self.context, self.io, self.policy, self.progress = context, io, policy, progress
        objective, config = context.objective, context.config
        self.processor = load_processor(context.start, config.max_video_tokens)
        model_config = load_model_config(context.start)
        dummy = dummy_tokens(self.processor, model_config, objective.dummy)
        self.runner = StepRunner(context, policy, dummy)
        self.reader = Reader(context, self.processor, model_config)
        self.examples = examples
        held_out: Sequence[Example] = ()
        if objective.adaptive is not None:
            share = objective.adaptive.held_out
            self.examples, held_out = hold_out(examples, share, config.seed)
        self.held_out = _rank_batches(held_out)
        self.assignments = assign_examples(
            [objective.size(example) for example in self.examples],
            objective.step_size,
            dist.get_world_size(),
            objective.epochs,
            context.seed,
        )
        self.trackers = None
        if dist.get_rank() == 0:
            self.trackers = Trackers(context, io.tensorboard, progress.history)

    def run(self) -> Stopped | None:
        """Trains to the end of the stage."""
        if self._plateaued():
            return None
        rank = dist.get_rank()
        steps = [
            [self.examples[index] for index in assignment[rank]]
            for assignment in self.assignments[self.progress.step :]
        ]
        for rank_rows, data_seconds in _timed(self.reader.prefetch(steps)):
            reason = self._step(rank_rows, data_seconds)
            if reason is not None:
                return Stopped(reason)
            if self._plateaued():
                self.io.log(
                    f"{self.context.spec.name}  stopped improving on the held-out videos: ends "
                    f"after step {self.progress.step}"
                )
                break
        return None

    def _step(self, rank_rows: RankRows, data_seconds: float) -> str | None:
        """One optimiser step with all that follows it; returns why training must stop."""
        progress, adaptive = self.progress, self.context.objective.adaptive
        metrics = self.runner.train(rank_rows, data_seconds, progress, len(self.assignments))
        if adaptive is not None and progress.step % adaptive.every_steps == 0:
            metrics |= self.runner.evaluate(self.reader.prefetch(self.held_out))
        progress.history.append(metrics)
        self._report(metrics)
        last = progress.step == len(self.assignments)
        reason = self._problem(last)
        due = progress.step % self.context.config.checkpoint_every_steps == 0 and not last
        if reason is None and due:
            reason = self._write_checkpoint()
        return reason

    def _problem(self, last: bool) -> str | None:
        progress, limits = self.progress, self.context.config.health
        problem = find_problem(progress.history, limits)
        if problem is not None:
            return problem
        skipped = len(progress.skipped)
        problem = too_many_skipped(skipped, progress.examples, limits, last)
        if problem is not None:
            problem += f"; for example {progress.skipped[-1].message}"
        return problem

    def _plateaued(self) -> bool:
        adaptive, history = self.context.objective.adaptive, self.progress.history
        return adaptive is not None and bool(history) and plateaued(history, adaptive)

    def _report(self, metrics: StepMetrics) -> None:
        """Metrics of every step, a line of progress at some."""
        if self.trackers is None:
            return
        self.trackers.log(metrics)
        self.io.observe(metrics)
        step, steps = self.progress.step, len(self.assignments)
        if step % math.ceil(steps / PROGRESS_LINES) and step not in (1, steps):
            return
        values = [f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics]
        shown = "  ".join(values) or "no readable example"
        self.io.log(
            f"{self.context.spec.name}  step {step}/{steps}  {shown}  {metrics['seconds']:.2f} s"
        )

    def _write_checkpoint(self) -> str | None:
        """Returns why it cannot be written, the same on all ranks."""
        engine, root = self.policy.engine, self.io.checkpoints
        reason = broadcast(checkpoints.lack_of_space(root, zero.state_bytes(engine)))
        if reason is not None:
            return reason
        state = {"progress": self.progress.to_state()}

        def write_part(folder: str) -> None:
            engine.save_checkpoint(
                folder, checkpoints.TAG, client_state=state, exclude_frozen_parameters=True
            )

        checkpoints.write_checkpoint(root, self.progress.step, write_part)
        return None

    def check_trained(self) -> Stopped | None:
        if any("loss" in metrics for metrics in self.progress.history):
            return None
        message = self.progress.skipped[0].message
        return Stopped(
            f"none of its {len(self.examples)} examples could be trained on, for example {message}"
        )

    def write_output(self) -> None:
        weights = zero.trained_weights(self.policy.engine.module.model)
        if self.trackers is not None:
            self.trackers.finish()
            write_output(self.context, weights, self.progress, self.processor, self.io.output)


def _timed(steps: Iterator[RankRows]) -> Iterator[tuple[RankRows, float]]:
    """Each step's rows, and the seconds that were waited for them."""
    while True:
        began = time.monotonic()
        rank_rows = next(steps, None)
        if rank_rows is None:
            return
        yield rank_rows, time.monotonic() - began


def _rank_batches(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """This rank's share of the held-out examples; as many batches on every rank."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    share = examples[rank::ranks]
    starts = range(0, math.ceil(len(examples) / ranks), HELD_OUT_BATCH)
    return [share[start : start + HELD_OUT_BATCH] for start in starts]
