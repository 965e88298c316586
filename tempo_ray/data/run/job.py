"""The generate_pairs job: a folder of videos -> a run with answers, pairs and a summary.

Tested in tests/data/run/test_generate_pairs_job.py and tests/integration/test_generate_pairs.py.
"""

from dataclasses import replace

from tempo_ray.config import GeneratePairsConfig
from tempo_ray.data.run.settings import check_run_version, check_settings, write_settings
from tempo_ray.data.shots import check_detector
from tempo_ray.data.videos import write_manifest
from tempo_ray.job import Job, Log
from tempo_ray.models.check import check_model
from tempo_ray.paths import RunPaths
from tempo_ray.records import PairsSummary


def generate_pairs(config: GeneratePairsConfig, job: Job, log: Log) -> None:
    """Begins the run or resumes it. `job.summary` has the counts that are known so far.

    Raises:
        UserError: the config, the input or the run must change.
        RuntimeError: a video is not accounted for.
    """
    check_model(config.respond.model)
    check_detector(config.select.shots)
    check_run_version(RunPaths(config.run))
    check_settings(config)
    videos = write_manifest(config.videos, RunPaths(config.run).videos, config.hash())
    summary = job.summary = PairsSummary(videos_in=videos)

    # Ray takes seconds to import: only after whatever can refuse a mistake
    from tempo_ray import cluster
    from tempo_ray.data.pipeline import write_pairs
    from tempo_ray.data.run.accounting import account, summary_lines

    _check_memory(config)
    cluster.connect(config.ray)
    pools = {"select.pool": config.select.pool, "respond.pool": config.respond.pool}
    requests = [
        cluster.NodeRequest.of(name, pool.cpus, pool.gpus, pool) for name, pool in pools.items()
    ]
    cluster.check_nodes(config.ray, requests)
    summary = job.summary = _answer(config, summary, log)
    tally = write_pairs(config)
    summary = job.summary = replace(
        account(config, tally, videos),
        tokens_per_second=summary.tokens_per_second,
        media_cache_hit_rate=summary.media_cache_hit_rate,
    )
    if videos != summary.kept + summary.dropped + summary.failed:
        raise RuntimeError(
            f"videos in are not kept + dropped + failed: {summary}; run the same command again"
        )
    for line in summary_lines(summary):
        log(line)
    log(f"everything is in {config.run}")


def _answer(config: GeneratePairsConfig, summary: PairsSummary, log: Log) -> PairsSummary:
    """Answers the videos that have no row in answers/ yet. Returns the summary with the speed."""
    from tempo_ray.data.pipeline import write_answers
    from tempo_ray.data.run.progress import engine_speed, reported
    from tempo_ray.data.run.recovery import reconcile

    videos = summary.videos_in
    answered = reconcile(RunPaths(config.run))
    if not answered:
        write_settings(config)
    before = f", {answered} of them answered before" if answered else ""
    log(f"{videos} videos in the manifest{before}")
    if answered >= videos:
        return summary
    with reported(videos - answered, config.run, log) as progress:
        write_answers(config, progress)
        speed = engine_speed(progress)
    return replace(
        summary,
        tokens_per_second=speed.tokens_per_second,
        media_cache_hit_rate=speed.media_cache_hit_rate,
    )


def _check_memory(config: GeneratePairsConfig) -> None:
    """Raises UserError where the first CPU engines would not fit into this machine's memory."""
    from tempo_ray import cluster

    respond = config.respond
    if respond.pool.gpus:
        return
    needed = respond.pool.min_size * cluster.engine_bytes(respond.model, respond.engine)
    advice = "lower respond.pool.min_size or respond.engine.kv_cache_bytes"
    cluster.check_memory(config.ray, needed, advice)
