"""`tempo-ray pretrain-shapeworld` as a file, for `ray job submit --working-dir . -- python jobs/pretrain_shapeworld.py ...`.

`python jobs/pretrain_shapeworld.py --help` lists every key.
"""

from tempo_ray.cli.pretrain_shapeworld import main

if __name__ == "__main__":
    main()
