"""The arrows of the design: who may import whom, and who may import Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tempo_ray"
LAYER = {
    "errors": 0,
    "metrics": 1,
    "retry": 1,
    "storage": 1,
    "paths": 2,
    "config": 2,
    "schema": 2,
    "records": 2,
    "job": 3,
    "tables": 3,
    "processes": 4,
    "models": 4,
    "cluster": 5,
    "data": 6,
    "train": 6,
    "serve": 6,
    "evaluate": 6,
    "report": 6,
    "shapeworld": 7,
    "study": 7,
    "cli": 8,
}
MAY_IMPORT_RAY = {
    "cluster.py",
    "metrics.py",
    "data/pipeline.py",
    "data/run/accounting.py",
    "data/run/recovery.py",
    "data/run/progress.py",
    "train/run/launch.py",
    "train/run/worker.py",
    "serve/app.py",
    "serve/deploy.py",
    "shapeworld/draw.py",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for name in imported(file):
        if not name.startswith("tempo_ray.") or room(name) == here:
            continue
        there = room(name)
        assert there in LAYER, f"{file}: {name} is in no layer"
        assert LAYER[there] < LAYER[here], f"{file} imports {name}: {here} may not import {there}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_ray_stays_at_the_edges(file: Path) -> None:
    uses = any(name == "ray" or name.startswith("ray.") for name in imported(file))
    assert not uses or str(file.relative_to(PACKAGE)) in MAY_IMPORT_RAY


def test_only_the_commands_tests_and_benchmarks_use_shapeworld() -> None:
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] not in ("shapeworld", "cli"):
            assert not any(name.startswith("tempo_ray.shapeworld") for name in imported(file)), file


@pytest.mark.parametrize("module", ["config", "config.load", "job", "cli.generate_pairs"])
def test_what_answers_help_imports_neither_ray_nor_torch(module: str) -> None:
    script = (
        f"import sys, tempo_ray.{module}; print({{'ray', 'torch', 'pandas'}} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def named_tests(file: Path) -> list[str]:
    """Paths under tests/ that the docstring of a module names."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return [word.strip("`.,;:()") for word in docstring.split() if "tests/" in word]


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.name not in ("__init__.py", "__main__.py")],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_every_module_has_its_test_or_says_where_it_is_tested(file: Path) -> None:
    """tests/ROOM/test_MODULE.py; or a file of tests/ that the docstring of the module, or of its
    package, names."""
    relative = file.relative_to(PACKAGE)
    namesake = ROOT / "tests" / relative.parent / f"test_{relative.name}"
    if namesake.is_file():
        return
    named = named_tests(file) or named_tests(file.with_name("__init__.py"))
    assert named, f"no {namesake.relative_to(ROOT)}, and its docstring names no test file"
    for name in named:
        assert (ROOT / name).is_file(), f"{relative} names {name}, which does not exist"
