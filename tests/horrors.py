"""A folder of untrusted input, and what each file must become: (status, how its reason begins)."""

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

Expected = dict[str, tuple[str, str | None]]


def shots(count: int, frames: int, width: int, height: int, seed: int = 0) -> Iterator[np.ndarray]:
    """(height, width, 3) uint8 RGB frames: noise that stays the same within a shot."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        still = np.kron(coarse, np.ones((height // 4 + 1, width // 4 + 1, 1), np.uint8))[
            :height, :width
        ]
        yield from (still for _ in range(frames))


def encode(
    file: Path,
    frames: Iterator[np.ndarray],
    *,
    fps: int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    last_pts: int | None = None,
    options: dict[str, str] | None = None,
    title: str | None = None,
) -> None:
    frames = iter(frames)
    held = next(frames)
    with av.open(str(file), "w", format="mp4", options=options or {}) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=fps, options={"preset": "ultrafast", "crf": "30"})
        stream.height, stream.width = held.shape[:2]
        stream.pix_fmt = pixels
        stream.time_base = Fraction(1, fps)
        for number in range(1 << 31):
            following = next(frames, None)
            frame = av.VideoFrame.from_ndarray(held, format="rgb24")
            frame.pts = last_pts if following is None and last_pts is not None else number
            container.mux(stream.encode(frame))
            if following is None:
                break
            held = following
        container.mux(stream.encode())


def repeated(file: Path, seconds: int, fps: int, width: int, height: int) -> None:
    """A long video for the price of a short one: 6 s of 6 shots are encoded, and their packets are
    written again and again."""
    with av.open(str(file.with_suffix(".part.mp4")), "w") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"preset": "ultrafast", "bf": "0", "g": str(fps)}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in shots(6, fps, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(file.with_suffix(".part.mp4"))) as short, av.open(str(file), "w") as long:
        source = short.streams.video[0]
        target = long.add_stream_from_template(source)
        for turn in range(seconds // 6):
            short.seek(0)
            for packet in short.demux(source):
                if packet.dts is None:
                    continue
                shift = int(turn * 6 / source.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts + shift,
                    packet.dts + shift,
                    target,
                )
                long.mux(packet)


def audio_only(file: Path) -> None:
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make(folder: Path) -> Expected:
    """Writes the folder. `removed.mp4` is for the test to delete once the folder is listed."""
    good = folder / "good.mp4"
    write_video(draw_story(np.random.default_rng(0), 5), good, 24, 64, 64)
    whole = good.read_bytes()
    expected: Expected = {"good.mp4": ("kept", None)}

    def put(name: str, data: bytes, status: str, reason: str | None) -> None:
        (folder / name).write_bytes(data)
        expected[name] = (status, reason)

    put("empty.mp4", b"", "failed", "not a video")
    put("text.mp4", b"this is no video\n" * 99, "failed", "not a video")
    put("no head.mp4", whole[len(whole) // 3 :], "failed", "not a video")
    put("no tail.mp4", whole[: len(whole) // 2], "failed", "not a video")
    third = len(whole) // 3
    put("no middle.mp4", whole[:third] + whole[2 * third :], "failed", "not a video")
    put(
        "middle overwritten.mp4",
        whole[:third] + bytes(third) + whole[2 * third :],
        "failed",
        "undecodable",
    )
    encode(folder / "index first.mp4", shots(5, 48, 64, 64), options={"movflags": "faststart"})
    whole = (folder / "index first.mp4").read_bytes()
    expected["index first.mp4"] = ("kept", None)
    put("index first, no tail.mp4", whole[: len(whole) * 6 // 10], "failed", "undecodable")
    put("name with\nnewline.mp4", whole, "kept", None)
    put("имя 名前 é.mp4", whole, "kept", None)

    def put_encoded(
        name: str, frames: Iterator[np.ndarray], status: str, reason: str | None, **settings: Any
    ) -> None:
        encode(folder / name, frames, **settings)
        expected[name] = (status, reason)

    put_encoded("one frame.mp4", shots(1, 1, 64, 64), "dropped", "too few shots")
    put_encoded("odd size.mp4", shots(5, 20, 75, 53), "kept", None, pixels="yuv444p")
    put_encoded("ten bit.mp4", shots(5, 20, 64, 64), "kept", None, pixels="yuv420p10le")
    put_encoded(
        "black for hours.mp4",
        (np.zeros((64, 64, 3), np.uint8) for _ in range(4 * 3600)),
        "dropped",
        "too long",
        fps=1,
    )
    put_encoded(
        "ten hours announced.mp4",
        shots(5, 20, 64, 64),
        "dropped",
        "too long",
        last_pts=10 * 3600 * 24,
    )
    with av.open(str(folder / "zero duration.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        container.start_encoding()
    expected["zero duration.mp4"] = ("failed", "not a video")
    put("removed.mp4", whole, "failed", "not there")  # the test does, once it is listed
    # a title in Latin-1, as old cameras write it
    titled = folder / "latin title.mp4"
    encode(titled, shots(5, 20, 64, 64), title="Zu\u0142awy!")
    titled.write_bytes(titled.read_bytes().replace("Zu\u0142awy!".encode(), b"K\xfcche!!!"))
    expected[titled.name] = ("kept", None)
    # a shot so long that not every frame of it is held, with a flash at its end
    put_encoded(
        "flash at the end.mp4",
        itertools.chain(shots(1, 2057, 64, 64), shots(1, 3, 64, 64, seed=1)),
        "dropped",
        "too few shots",
    )
    audio_only(folder / "audio only.mp4")
    expected["audio only.mp4"] = ("failed", "not a video")
    os.symlink(folder / "loop.mp4", folder / "loop.mp4")
    expected["loop.mp4"] = ("failed", "cannot be read now")
    os.symlink(folder / "nowhere", folder / "dangling.mp4")
    expected["dangling.mp4"] = ("failed", "not there")
    return expected
