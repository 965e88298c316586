"""`tempo-ray train` as a file, for `ray job submit --working-dir . -- python jobs/train.py ...`.

`python jobs/train.py --help` lists every key.
"""

from tempo_ray.cli.train import main

if __name__ == "__main__":
    main()
