"""python -m tempo_ray.cli COMMAND: what the console script runs; for processes that start jobs."""

from tempo_ray.cli import main

main()
