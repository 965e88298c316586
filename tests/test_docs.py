"""The documents name files, configs and commands that exist."""

import re
from pathlib import Path

import pytest

from tempo_ray.cli import COMMANDS
from tempo_ray.config.load import shipped_configs

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    file
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "cluster" / "README.md"]
    if file.name != "CHANGELOG.md"  # it names what has gone
)
OF_USERS = ("my/", "runs/", "data/", "s3://", "RUN/")
"""What a command in a document works on."""


each_document = pytest.mark.parametrize(
    "file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT))
)


@each_document
def test_files_that_are_named_exist(file: Path) -> None:
    named = re.findall(r"[\w/.{},-]+/[\w.-]+\.(?:py|yaml|md)\b", file.read_text())
    for path in named:
        if "NAME" in path or "{" in path or path.startswith(OF_USERS):
            continue
        places = (ROOT, ROOT / "tempo_ray", file.parent)
        assert any((place / path).is_file() for place in places), f"{file.name} names {path}"


@each_document
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text()):
        if "://" not in target:
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


@each_document
def test_commands_and_configs_exist(file: Path) -> None:
    text = file.read_text()
    for command in re.findall(r"(?:^|[`\s])tempo-ray ([a-z][a-z-]+)", text):
        assert command in COMMANDS, f"{file.name}: tempo-ray {command}"
    for config in re.findall(r"--config ([a-z0-9_]+)\b", text):
        assert config in shipped_configs(), f"{file.name}: --config {config}"


@pytest.mark.parametrize("line", ["demo", "test", "check"])
def test_the_commands_of_the_readme_are_makes(line: str) -> None:
    assert f"make {line}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{line}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
