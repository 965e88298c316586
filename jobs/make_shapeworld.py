"""`tempo-ray make-shapeworld` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/make_shapeworld.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.make_shapeworld import main

if __name__ == "__main__":
    main()
