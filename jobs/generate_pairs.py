"""`tempo-ray generate-pairs` as a file, for `ray job submit --working-dir . -- python jobs/generate_pairs.py ...`.

`python jobs/generate_pairs.py --help` lists every key.
"""

from tempo_ray.cli.generate_pairs import main

if __name__ == "__main__":
    main()
