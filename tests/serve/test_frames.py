"""The endpoint shows a model the same frames as training and answers do.

Compares tempo_ray/models/frames.py with vLLM's own loaders, as tempo_ray/serve/app.py sets them.
"""

import numpy as np
import pytest
from vllm.multimodal.media.image import ImageMediaIO
from vllm.multimodal.media.video import VideoMediaIO
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, get_video_loader_backend_for_processor
from vllm.multimodal.video_decoders.base import VideoSourceMetadata, VideoTargetMetadata

from tempo_ray.config import FramesConfig, ServeConfig
from tempo_ray.models.frames import read_frames, sample_indices
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

PROCESSORS = {"qwen2_5_vl": "Qwen2VLVideoProcessor", "qwen3_vl": "Qwen3VLVideoProcessor"}
FRAMES = [
    FramesConfig(),
    FramesConfig(fps=1.0, max_frames=16),
    FramesConfig(fps=8.0, min_frames=2, max_frames=64),
]


def served_indices(model_type: str, total: int, fps: float, frames: FramesConfig) -> list[int]:
    """Those of vLLM's loader; transformers then repeats the last frame of an odd number."""
    name = get_video_loader_backend_for_processor(PROCESSORS[model_type])
    source = VideoSourceMetadata(total_frames_num=total, original_fps=fps, duration=total / fps)
    target = VideoTargetMetadata(num_frames=32, fps=frames.fps, max_duration=300)
    kwargs = {"min_frames": frames.min_frames, "max_frames": frames.max_frames}
    indices = VIDEO_LOADER_REGISTRY.load(name).compute_frames_index_to_sample(
        source, target, **kwargs
    )
    return indices if len(indices) % 2 == 0 else [*indices, indices[-1]]


@pytest.mark.parametrize("frames", FRAMES, ids=lambda frames: f"{frames.fps:g}fps")
@pytest.mark.parametrize("model_type", PROCESSORS)
def test_the_endpoint_samples_the_same_frames(model_type, frames):
    rng = np.random.default_rng(0)
    totals = [*range(2, 120), *rng.integers(120, 20_000, 200).tolist()]
    for total in totals:
        fps = float(rng.choice([10.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0]))
        assert sample_indices(total, fps, frames, model_type) == served_indices(
            model_type, total, fps, frames
        ), (total, fps)


@pytest.mark.parametrize("model_type", PROCESSORS)
def test_the_endpoint_sees_the_same_pixels(tmp_path, model_type):
    """A file through the loader as the app configures it, and through ours."""
    from tempo_ray.serve.app import serving_kwargs

    config = ServeConfig.model_validate(
        {"models": [{"name": "m", "path": "m"}], "frames": {"fps": 2.0, "max_frames": 12}}
    )
    file = tmp_path / "story.mp4"
    write_video(draw_story(np.random.default_rng(0), 5), file, 24, 64, 64)
    ours = read_frames(str(file), config.frames, model_type)
    loader = get_video_loader_backend_for_processor(PROCESSORS[model_type])
    served = VideoMediaIO(
        ImageMediaIO(), video_backend=loader, **serving_kwargs(config)["media_io_kwargs"]["video"]
    )
    pixels, metadata = served.load_bytes(file.read_bytes()).media
    assert metadata["frames_indices"] == ours.metadata["frames_indices"]
    assert metadata["fps"] == ours.metadata["fps"]
    assert metadata["total_num_frames"] == ours.metadata["total_num_frames"]
    # OpenCV and decord round differently when converting YUV to RGB
    assert np.abs(pixels.astype(int) - ours.pixels.astype(int)).max() <= 4
