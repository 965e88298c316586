"""The arrows of the design: who may import whom, and who may import Ray."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYER = {
    "schema": 0,
    "config": 0,
    "paths": 0,
    "retry": 0,
    "arguments": 1,
    "job": 1,
    "models": 2,
    "cluster": 3,
    "data": 4,
    "train": 4,
    "serve": 4,
    "evaluate": 4,
    "report": 4,
    "shapeworld": 5,
}
MAY_IMPORT_RAY = {
    "cluster.py",
    "data/pipeline.py",
    "data/metrics.py",
    "train/launch.py",
    "train/loop.py",
    "serve/app.py",
}
FILES = sorted((ROOT / "tempo_ray").rglob("*.py"))


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    here = file.relative_to(ROOT / "tempo_ray").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for name in imported(file):
        if not name.startswith("tempo_ray.") or part(name) == here:
            continue
        there = part(name)
        assert there in LAYER, f"{file}: {name} is in no layer"
        allowed = LAYER[there] < LAYER[here]
        assert allowed, f"{file} imports {name}: {here} may not import {there}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_ray_stays_at_the_edges(file: Path) -> None:
    uses = any(name == "ray" or name.startswith("ray.") for name in imported(file))
    assert not uses or str(file.relative_to(ROOT / "tempo_ray")) in MAY_IMPORT_RAY


def test_nothing_but_jobs_tests_and_benchmarks_uses_shapeworld() -> None:
    for file in FILES:
        if "shapeworld" not in file.parts:
            assert not any(name.startswith("tempo_ray.shapeworld") for name in imported(file)), file
