"""Wall time of selecting videos over the wall time of only decoding the same files, both on one core.

    python -m benchmarks.selection_vs_decode [videos=4] [rounds=3]

720p ShapeWorld videos of 12 shots, 24 s each. Selecting is all that jobs/generate_pairs.py does before it asks a model:
decode, shots, sharpness, likeness, verdict. Only decoding is PyAV (FFmpeg) with one thread and no work on the frames.
"""

import sys
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.measure import in_turns, ratios, report
from tempo_ray.config import SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.select import judged, look
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

WIDTH, HEIGHT, FPS, SHOTS, SHOT_SECONDS = 1280, 720, 30, 12, 2.0


def decode_only(file: Path) -> int:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos, rounds = int(words.get("videos", 4)), int(words.get("rounds", 3))
    cv2.setNumThreads(1)
    config = SelectConfig()
    embed = Descriptor(config.clips.descriptor_similarity)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{seed}.mp4" for seed in range(videos)]
        for seed, file in enumerate(files):
            story = draw_story(np.random.default_rng(seed), SHOTS, (SHOT_SECONDS, SHOT_SECONDS))
            write_video(story, file, FPS, WIDTH, HEIGHT)

        def select() -> None:
            for file in files:
                row = judged(look((str(file), config)), config, embed)
                assert row["status"] in ("kept", "dropped"), row

        def decode() -> None:
            for file in files:
                assert decode_only(file) > 0

        select(), decode()  # both warm
        selecting, decoding = in_turns(select, decode, rounds)
    report(
        "selection_vs_decode",
        ("av", "decord", "scenedetect", "opencv-python-headless"),
        **ratios(selecting, decoding),
        goal=1.3,
        selecting_s=[round(one, 2) for one in selecting],
        decoding_s=[round(one, 2) for one in decoding],
        video_seconds_per_second=round(videos * SHOTS * SHOT_SECONDS / min(selecting), 1),
        size=f"{WIDTH}x{HEIGHT}",
    )


if __name__ == "__main__":
    main()
