"""Wall time of selecting videos over the wall time of only decoding the same files, on one core.

    python -m benchmarks.selection_vs_decode [videos=2] [rounds=5] [FILE ...]

720p H.264 videos of 12 shots, 24 s each. `camera` moves over grainy texture, at about the bit rate
of web video; `drawn` is plain ShapeWorld, which decodes two to three times as fast, so that
everything else weighs more. FILEs are measured too. Selecting is all that generate_pairs does
before it asks a model: decode, scale, shots, sharpness, scenes, verdict. Only decoding is PyAV
(FFmpeg) with one thread and no work on the frames.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.measure import in_turns, ratios, report
from tempo_ray.config import SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.select import decode_video, judged
from tempo_ray.records import VideoAnswers
from tempo_ray.shapeworld.render import draw_frames
from tempo_ray.shapeworld.story import Story, draw_story

WIDTH, HEIGHT, FPS, SHOTS, SHOT_SECONDS = 1280, 720, 30, 12, 2.0


def camera_frames(story: Story, seed: int) -> Iterator[np.ndarray]:
    """(height, width, 3) uint8 RGB frames: the story in front of a texture that the camera moves
    over, with fresh grain in every frame."""
    rng = np.random.default_rng(seed)
    wide, high = WIDTH + 240, HEIGHT + 160
    texture = np.zeros((high, wide), np.float32)
    # about as much contrast at each scale as photographs have
    for scale in (2, 4, 8, 16, 32, 64):
        noise = rng.normal(0, 6 * scale**0.5, (high // scale, wide // scale)).astype(np.float32)
        texture += cv2.resize(noise, (wide, high), interpolation=cv2.INTER_CUBIC)
    for number, frame in enumerate(draw_frames(story, FPS, WIDTH, HEIGHT)):
        left, top = int(number * 1.3) % 240, int(80 + 70 * np.sin(number / 17))
        grain = rng.normal(0, 2, (HEIGHT, WIDTH)).astype(np.float32)
        light = texture[top : top + HEIGHT, left : left + WIDTH] + grain
        yield np.clip(frame + light[..., None], 0, 255).astype(np.uint8)


def encode(frames: Iterator[np.ndarray], file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decode_only(file: Path) -> int:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def measured(files: Sequence[Path], rounds: int) -> dict[str, Any]:
    config = SelectConfig()
    embed = Descriptor(config.clips.descriptor_similarity)

    def select() -> None:
        for file in files:
            row = VideoAnswers(file.name, str(file))
            row = judged(decode_video(row, config), config, embed)
            assert row.status in ("kept", "dropped"), row

    frames = 0

    def decode() -> None:
        nonlocal frames
        frames = sum(decode_only(file) for file in files)

    select()  # warm
    decode()
    selecting, decoding = in_turns(select, decode, rounds)
    bits = 8 * sum(file.stat().st_size for file in files)
    return {
        **ratios(selecting, decoding),
        "frames_per_second": round(frames / min(selecting)),
        "kilobits_per_second": round(bits * FPS / frames / 1000),
        "selecting_s": [round(seconds, 2) for seconds in selecting],
        "decoding_s": [round(seconds, 2) for seconds in decoding],
    }


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    named = [Path(word) for word in sys.argv[1:] if "=" not in word]
    videos, rounds = int(words.get("videos", 2)), int(words.get("rounds", 5))
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        drawn, camera = (
            [Path(folder) / f"{kind} {seed}.mp4" for seed in range(videos)]
            for kind in ("drawn", "camera")
        )
        for seed in range(videos):
            story = draw_story(np.random.default_rng(seed), SHOTS, (SHOT_SECONDS, SHOT_SECONDS))
            encode(draw_frames(story, FPS, WIDTH, HEIGHT), drawn[seed])
            encode(camera_frames(story, seed), camera[seed])
        results = {"camera": measured(camera, rounds), "drawn": measured(drawn, rounds)}
        results |= {file.name: measured([file], rounds) for file in named}
    report(
        "selection_vs_decode",
        ("av", "decord", "scenedetect", "opencv-python-headless"),
        ratio=results["camera"]["ratio"],
        goal=1.3,
        size=f"{WIDTH}x{HEIGHT}",
        of=results,
    )


if __name__ == "__main__":
    main()
