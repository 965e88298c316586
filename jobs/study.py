"""`tempo-ray study` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/study.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.study import main

if __name__ == "__main__":
    main()
