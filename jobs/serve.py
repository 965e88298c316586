"""`tempo-ray serve` as a file, for `ray job submit --working-dir . -- python jobs/serve.py ...`.

`python jobs/serve.py --help` lists every key.
"""

from tempo_ray.cli.serve import main

if __name__ == "__main__":
    main()
