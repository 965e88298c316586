"""`tempo-ray generate-pairs` as a file, to submit to a cluster:

    ray job submit --working-dir . -- \\
        python jobs/generate_pairs.py [--config NAME_OR_FILE] [key=value ...]

`--help` lists every key.
"""

from tempo_ray.cli.generate_pairs import main

if __name__ == "__main__":
    main()
