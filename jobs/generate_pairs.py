"""Videos -> preference pairs: select by shots, ask the model for clean and perturbed answers, keep the good pairs.

python jobs/generate_pairs.py --config jobs/configs/embedded.yaml run=runs/try videos.input=my/videos
ray job submit --working-dir . -- python jobs/generate_pairs.py --config CONFIG run=s3://bucket/run videos.input=s3://bucket/videos
"""

from tempo_ray.config import GeneratePairsConfig, parse_args


def main() -> None:
    config = parse_args(GeneratePairsConfig, __doc__, section="generate_pairs")

    from tempo_ray import job

    with job.running("generate_pairs", config.run, config) as counts:
        from tempo_ray.data.videos import NoVideos, list_videos
        from tempo_ray.models.check import NotAModel, check_model

        try:
            check_model(config.respond.model)
            list_videos(config.videos)
        except (NoVideos, NotAModel) as mistake:
            raise job.BadInput(str(mistake)) from None

        from tempo_ray import cluster
        from tempo_ray.data import pipeline

        respond = config.respond
        if not respond.pool.gpus:
            needed = respond.pool.min_size * cluster.engine_bytes(respond.model, respond.engine)
            cluster.check_memory(config.ray, needed, "lower respond.pool.min_size or respond.engine.kv_cache_bytes")
        cluster.connect(config.ray)
        pipeline.run(config, counts)
        print(
            f"videos in {counts['videos_in']} = kept {counts['kept']} + dropped {counts['dropped']} + failed {counts['failed']}; "
            f"answers {counts['answers']}; pairs {counts['pairs']}"
        )
        for reason, number in counts["reasons"].items():
            print(f"  {number:6d}  {reason}")
        for rule, number in counts["pairs_dropped"].items():
            print(f"  {number:6d}  pairs dropped by {rule}")
        print(f"everything lies in {config.run}")


if __name__ == "__main__":
    main()
