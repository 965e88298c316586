"""How the job grows with its manifest: listing, planning and the driver's memory for 1,000 to
1,000,000 videos.

    python -m benchmarks.manifest_scale [rows=1000,10000,100000,1000000]

A list of URIs becomes the job's own manifest, which goes through a chain with the job's own
checkpoint, blocks, pools and writer, whose actors do nothing: what is left is what the job costs
besides its work. Each size runs in a process of its own, and then a second time, when every row is
in the checkpoint.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from benchmarks.measure import report, seconds
from tempo_ray.cluster import connect
from tempo_ray.config import PoolConfig, RayConfig, VideosConfig
from tempo_ray.data.pipeline import actor_pool
from tempo_ray.data.run.recovery import checkpointed, reconcile, unanswered_blocks
from tempo_ray.data.videos import write_manifest
from tempo_ray.paths import RunPaths
from tempo_ray.schema import VIDEO_ANSWERS

POOL = PoolConfig(batch_rows=16)
BATCHES_IN_FLIGHT = 3


class DropAll:
    """schema.VIDEO -> schema.VIDEO_ANSWERS, every video dropped."""

    def __call__(self, videos: pa.Table) -> pa.Table:
        known = {
            "video_id": videos["video_id"],
            "uri": videos["uri"],
            "status": pa.repeat("dropped", len(videos)),
        }
        columns = [
            known.get(column.name, pa.nulls(len(videos), column.type)) for column in VIDEO_ANSWERS
        ]
        return pa.table(columns, schema=VIDEO_ANSWERS)


class PassOn:
    def __call__(self, answers: pa.Table) -> pa.Table:
        return answers


def run_chain(paths: RunPaths) -> None:
    """`tempo_ray.data.pipeline.write_answers` without its work."""
    blocks = unanswered_blocks(paths, POOL.batch_rows)
    if not blocks:
        return
    with checkpointed(paths):
        (
            ray.data.from_blocks(blocks)
            .map_batches(DropAll, **actor_pool(POOL))
            .map_batches(PassOn, **actor_pool(POOL, BATCHES_IN_FLIGHT))
            .write_parquet(paths.answers, ray_remote_args={"num_cpus": 0})
        )


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def measured(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(f"{folder}/run")
        with (Path(folder) / "list.txt").open("w") as file:
            file.writelines(
                f"s3://bucket/videos/{number % 1000:03d}/{number:09d}.mp4\n"
                for number in range(rows)
            )
        result: dict[str, Any] = {"rows": rows, "start_mb": peak_mb()}
        videos = VideosConfig(input=f"{folder}/list.txt")
        began = time.perf_counter()
        assert write_manifest(videos, paths.videos, "") == rows
        result |= {"listing_s": round(time.perf_counter() - began, 2), "listing_mb": peak_mb()}
        connect(RayConfig(num_cpus=6))
        for name, answered in (("chain", 0), ("again", rows)):

            def resume(answered: int = answered) -> None:
                assert reconcile(paths) == answered
                run_chain(paths)

            result |= {f"{name}_s": round(seconds(resume), 2), f"{name}_mb": peak_mb()}
        files = {
            Path(kind).name: sum(1 for _ in Path(kind).iterdir())
            for kind in (paths.videos, paths.answers, paths.answers_checkpoint)
        }
        return result | {"files": files, "rows_per_second": round(rows / result["chain_s"])}


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    if "size" in words:
        print(json.dumps(measured(int(words["size"]))))
        return
    curve = []
    for rows in words.get("rows", "1000,10000,100000,1000000").split(","):
        command = [sys.executable, "-m", "benchmarks.manifest_scale", f"size={rows}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results = [line for line in done.stdout.splitlines() if line.startswith("{")]
        curve.append(json.loads(results[-1]))
        print(results[-1], file=sys.stderr)
    report("manifest_scale", ("ray", "pyarrow"), curve=curve)


if __name__ == "__main__":
    main()
