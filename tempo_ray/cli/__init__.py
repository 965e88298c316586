"""The console script `tempo-ray`: a subcommand per job, the same functions as jobs/*.py.

Tested by tests/test_cli.py; the jobs themselves by tests/integration/test_generate_pairs.py,
tests/integration/test_train.py and tests/integration/test_serve.py.
"""

import importlib
import sys
from importlib.metadata import version

COMMANDS = {
    "generate-pairs": "videos -> preference pairs",
    "train": "pairs and conversations -> an aligned and fine-tuned model",
    "serve": "models -> an OpenAI-compatible endpoint",
    "evaluate": "an endpoint and questions -> scores",
    "demo": "all of it on drawn videos, on this machine",
    "study": "arms x seeds, through the same jobs -> one table of differences",
    "make-shapeworld": "nothing -> a corpus of drawn videos with known stories",
    "pretrain-shapeworld": "nothing -> one of the tiny models that ship with the package",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tempo-ray COMMAND [--config NAME_OR_FILE] [key=value ...]",
            "",
            *lines,
            "",
            "tempo-ray COMMAND --help lists every key.",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(f"tempo-ray {version('tempo_ray')}")
    elif command in COMMANDS:
        importlib.import_module(f"tempo_ray.cli.{command.replace('-', '_')}").main(words[1:])
    else:
        print(f"tempo-ray has no command {command}\n\n{usage()}", file=sys.stderr)
        raise SystemExit(2)
