"""The figures of the cluster demo, computed by hand from samples. The demo itself is run by hand:
`make cluster-demo`."""

from pathlib import Path

import pytest

from cluster.local.demo import Phase, actors_of, draw, gpu_seconds, rates, report
from cluster.local.watch import Sample


def sample(seconds: float, nodes: dict[str, int], **amounts: dict[str, float]) -> Sample:
    none: dict[str, float] = {}
    held, used, counted = (amounts.get(name, none) for name in ("held", "used", "counted"))
    return Sample(seconds, nodes, {}, held, used, counted)


SAMPLES = [
    sample(0.0, {}),
    sample(10.0, {"cpu": 1}, held={"CPU": 4.0}, used={"CPU": 2.0}, counted={"videos": 0.0}),
    sample(
        20.0,
        {"cpu": 2, "gpu": 1},
        held={"CPU": 12.0, "GPU": 1.0},
        used={"GPU": 1.0},
        counted={"videos": 5.0},
    ),
    sample(
        30.0,
        {"gpu": 1},
        held={"CPU": 4.0, "GPU": 1.0},
        counted={"videos": 25.0, "engine_seconds": 7.5},
    ),
    sample(40.0, {}, counted={"videos": 25.0, "engine_seconds": 7.5}),
]
PHASES = [Phase("generate_pairs", 5.0, 31.4)]


def test_gpu_seconds_held_used_and_busy() -> None:
    assert gpu_seconds(SAMPLES) == {"held": 20.0, "used": 10.0, "busy": 7.5}


def test_actors_are_counted_by_a_part_of_their_class() -> None:
    actors = {"MapWorker(MapBatches(SelectClips))": 2, "Progress": 1}
    assert actors_of(Sample(0.0, {}, actors, {}, {}, {}), "SelectClips") == 2
    assert actors_of(SAMPLES[0], "SelectClips") == 0


def test_videos_per_second_over_the_last_ten() -> None:
    assert rates(SAMPLES, "videos") == pytest.approx([0.0, 0.0, 0.5, 2.0, 0.0])


def test_the_report_says_when_nodes_were_there() -> None:
    assert report(SAMPLES, PHASES).splitlines() == [
        "  generate_pairs     26 s",
        "  cpu nodes: up to 2, from second 10 to 20",
        "  gpu nodes: up to 1, from second 20 to 30",
        "  GPU-seconds: held 20, used 10, busy 8",
    ]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(SAMPLES, PHASES, tmp_path / "cluster.png")
    assert (tmp_path / "cluster.png").read_bytes().startswith(b"\x89PNG")
