"""Scenes, clips and their key frames, on features and sharpness made by hand; and an encoder."""

from pathlib import Path

import numpy as np
import torch
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from tempo_ray.config import ClipsConfig, SelectConfig
from tempo_ray.data.clips import clips_of, key_frames, make_embed, scenes_of
from tempo_ray.data.select import decode_video, judged
from tempo_ray.records import Shot, VideoAnswers
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story


def test_the_most_similar_shots_are_merged_first() -> None:
    features = np.array([[1.0, 0.0], [0.99, 0.14], [0.0, 1.0], [1.0, 0.02]])
    assert scenes_of(features, 0.8) == [0, 0, 1, 0]
    assert scenes_of(features, 0.9999) == [0, 1, 2, 3]
    assert scenes_of(features[:1], 0.8) == [0]


def test_clips_are_runs_of_shots_of_one_scene() -> None:
    shots = [Shot(start, start + 10) for start in range(0, 50, 10)]
    clips = clips_of(shots, [0, 0, 1, 0, 2], np.ones(50))
    assert [(clip.start, clip.end, clip.scene) for clip in clips] == [
        (0, 20, 0),
        (20, 30, 1),
        (30, 40, 0),
        (40, 50, 2),
    ]


def test_key_frames_are_the_sharpest_near_the_thirds() -> None:
    sharpness = np.ones(30)
    sharpness[12] = 50.0
    assert key_frames(sharpness, 0, 30) == (12, 19)
    assert key_frames(np.zeros(30), 0, 30)[0] in (9, 10)


def test_an_image_encoder_by_path(tmp_path: Path) -> None:
    """A SigLIP of the stock architecture with random weights: a frame is like itself, and less like
    its negative."""
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    siglip = SiglipConfig(
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        text_config=tower | {"vocab_size": 64},
    )
    torch.manual_seed(0)
    folder = str(tmp_path / "siglip")
    SiglipModel(siglip).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = SelectConfig(clips=ClipsConfig(encoder=folder, similarity=0.99))
    embed = make_embed(config.clips)
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    features = embed([frame, frame, 255 - frame])
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert features[0] @ features[1] > features[0] @ features[2]
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    decoded = decode_video(VideoAnswers("v", str(tmp_path / "v.mp4")), config)
    row = judged(decoded, config, embed)
    assert row.embedding == folder
    assert len(row.clips) >= 1
    assert row.status in ("kept", "dropped")
