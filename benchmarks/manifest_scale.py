"""How the job grows with its manifest: listing, planning and the driver's memory for 1,000 to 1,000,000 videos.

    python -m benchmarks.manifest_scale [rows=1000,10000,100000,1000000]

A list of URIs goes through the job's own manifest and the job's own chain, with its checkpoint and its writer, in which two
pools of actors do nothing: what is left is what the job costs besides its work. Each size runs in a process of its own, and
then once more, when everything is done already.
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

from benchmarks.measure import report
from tempo_ray.cluster import connect
from tempo_ray.config import Pool, RayConfig, VideosConfig
from tempo_ray.data.pipeline import Step, settled, stream
from tempo_ray.data.videos import write_manifest
from tempo_ray.paths import RunPaths
from tempo_ray.schema import ANSWERS


class NoSelect:
    """schema.VIDEO -> schema.ANSWERS, every video dropped."""

    def __call__(self, videos: pa.Table) -> pa.Table:
        known = {
            "video_id": videos["video_id"],
            "uri": videos["uri"],
            "status": pa.repeat("dropped", len(videos)),
        }
        return pa.table(
            [known.get(field.name, pa.nulls(len(videos), field.type)) for field in ANSWERS],
            schema=ANSWERS,
        )


class NoAnswers:
    def __call__(self, answers: pa.Table) -> pa.Table:
        return answers


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def once(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(f"{folder}/run")
        with (Path(folder) / "list.txt").open("w") as file:
            file.writelines(
                f"s3://bucket/videos/{number % 1000:03d}/{number:09d}.mp4\n"
                for number in range(rows)
            )
        found: dict[str, Any] = {"rows": rows, "start_mb": peak_mb()}
        began = time.perf_counter()
        assert write_manifest(VideosConfig(input=f"{folder}/list.txt"), paths.videos, "") == rows
        found |= {"listing_s": round(time.perf_counter() - began, 2), "listing_mb": peak_mb()}
        connect(RayConfig(num_cpus=6))
        pool = Pool(min_size=1, max_size=1, cpus=1, batch=16)
        steps = [Step(NoSelect, (), pool), Step(NoAnswers, (), pool, together=3)]
        for name in ("chain", "again"):
            began = time.perf_counter()
            assert settled(paths) == (rows if name == "again" else 0)
            stream(paths, rows, steps)
            found |= {f"{name}_s": round(time.perf_counter() - began, 2), f"{name}_mb": peak_mb()}
        files = {
            kind: sum(1 for _ in (Path(paths.root) / kind).iterdir())
            for kind in ("videos", "answers", "ledger")
        }
        return found | {"files": files, "rows_per_second": round(rows / found["chain_s"])}


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    if "one" in words:
        print(json.dumps(once(int(words["one"]))))
        return
    curve = []
    for rows in words.get("rows", "1000,10000,100000,1000000").split(","):
        command = [sys.executable, "-m", "benchmarks.manifest_scale", f"one={rows}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        curve.append(
            json.loads(
                next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
            )
        )
        print(json.dumps(curve[-1]), file=sys.stderr)
    report("manifest_scale", ("ray", "pyarrow"), curve=curve)


if __name__ == "__main__":
    main()
