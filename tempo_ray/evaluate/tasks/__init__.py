"""The benchmarks, one module each: what is asked, and when a reply is right.

To add one: a module here with the four functions of `tempo_ray.evaluate.task.Task`, its name in
tempo_ray/config/evaluate.py and in TASKS, and its test.
"""

from collections.abc import Mapping
from typing import Any

from tempo_ray.config.evaluate import Task as TaskName
from tempo_ray.evaluate.task import Task
from tempo_ray.evaluate.tasks import shapeworld

TASKS: Mapping[TaskName, Task[Any]] = {"shapeworld": shapeworld}
