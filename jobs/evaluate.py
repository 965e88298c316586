"""`tempo-ray evaluate` as a file, for `ray job submit --working-dir . -- python jobs/evaluate.py ...`.

`python jobs/evaluate.py --help` lists every key.
"""

from tempo_ray.cli.evaluate import main

if __name__ == "__main__":
    main()
