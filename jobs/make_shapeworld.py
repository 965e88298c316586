"""`tempo-ray make-shapeworld` as a file, for `ray job submit --working-dir . -- python jobs/make_shapeworld.py ...`.

`python jobs/make_shapeworld.py --help` lists every key.
"""

from tempo_ray.cli.make_shapeworld import main

if __name__ == "__main__":
    main()
