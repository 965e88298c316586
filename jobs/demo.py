"""`tempo-ray demo` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/demo.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.demo import main

if __name__ == "__main__":
    main()
