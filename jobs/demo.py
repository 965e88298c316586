"""`tempo-ray demo` as a file, for `ray job submit --working-dir . -- python jobs/demo.py ...`.

`python jobs/demo.py --help` lists every key.
"""

from tempo_ray.cli.demo import main

if __name__ == "__main__":
    main()
