"""`tempo-ray pretrain-shapeworld` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/pretrain_shapeworld.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.pretrain_shapeworld import main

if __name__ == "__main__":
    main()
