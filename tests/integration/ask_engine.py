"""A model folder -> JSON: how its engine behaves at the limits. Run by test_models.py.

python tests/integration/ask_engine.py FOLDER
"""

import json
import sys

from tempo_ray.config import SamplingConfig
from tempo_ray.models.engine import Engine, EngineDied, Refused, Request
from tempo_ray.shapeworld.exam import ENGINE


def main(path: str) -> None:
    engine = Engine(path, ENGINE, SamplingConfig())
    # more seeded prompt tokens than it computes in one step: vLLM 0.32 on CPU dies of it unless
    # prompts are never chunked
    stories = [f"{number}. " + "A red square grows. " * 60 for number in range(48)]
    too_long = "A red square grows. " * 900
    requests = [Request((story,), (), 8, seed) for seed, story in enumerate([*stories, too_long])]
    answers = engine.generate(requests)
    again = engine.generate(requests[:2])
    engine.close()
    try:
        engine.generate(requests[:1])
        after_the_end = None
    except EngineDied as error:
        after_the_end = str(error)
    facts = {
        "refused": [isinstance(answer, Refused) for answer in answers],
        "refusal": str(answers[-1]),
        "repeatable": again == answers[:2],
        "after_the_end": after_the_end,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
