"""`tempo-ray train` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/train.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.train import main

if __name__ == "__main__":
    main()
