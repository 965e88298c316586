"""Rows of answers for tests, with every field set."""

from dataclasses import replace
from typing import Any

from tempo_ray.records import Answer, Clip, PerturbationName, Shot, VideoAnswers


def answer(perturbation: PerturbationName, text: str, **changed: Any) -> Answer:
    row = Answer(
        answer_id=f"{perturbation}-{text}",
        form="caption",
        perturbation=perturbation,
        strength=None if perturbation == "clean" else 4,
        sample=0,
        order=(0, 1, 2, 3),
        order_distance=0.0,
        kept_share=1.0,
        prompt="Tell it.",
        text=text,
        seed=1,
        prompt_tokens=9,
        completion_tokens=3,
        finish_reason="stop",
    )
    return replace(row, **changed)


def kept_video(*answers: Answer, video_id: str = "v", **changed: Any) -> VideoAnswers:
    """Four clips of 24 frames, each with two key frames."""
    row = VideoAnswers(
        video_id=video_id,
        uri=f"{video_id}.mp4",
        status="kept",
        frames=96,
        fps=24.0,
        width=64,
        height=64,
        decoder="decord",
        detector="pyscenedetect-adaptive",
        embedding="colour-and-edge",
        richness=2.0,
        shots=tuple(Shot(start, start + 24, 99.0) for start in range(0, 96, 24)),
        clips=tuple(
            Clip(24 * i, 24 * i + 24, i, (24 * i + 7, 24 * i + 15), f"caption {i}", "stop", 5)
            for i in range(4)
        ),
        answers=answers,
        model="m",
        model_hash="h",
        config_hash="c",
    )
    return replace(row, **changed)
