"""The console script and jobs/*.py: one function per job, instant help, mistakes in two lines."""

import ast
import itertools
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tempo_ray.cli import COMMANDS, main
from tempo_ray.config import (
    EvaluateConfig,
    GeneratePairsConfig,
    ServeConfig,
    StudyConfig,
    TrainConfig,
)
from tempo_ray.config.load import SHIPPED, load_config, shipped_configs

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "generate_pairs": (GeneratePairsConfig, ["run=r", "videos.input=v"]),
    "train": (TrainConfig, ["run=r", "sft.data=s"]),
    "serve": (ServeConfig, []),
    "evaluate": (EvaluateConfig, ["run=r", "questions=q"]),
    "study": (StudyConfig, []),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_job_file_that_runs_the_same_function(command: str) -> None:
    name = command.replace("-", "_")
    tree = ast.parse((ROOT / "jobs" / f"{name}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imports] == [f"tempo_ray.cli.{name}"]
    assert callable(import_module(f"tempo_ray.cli.{name}").main)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_keys_and_only_files_that_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Keys:" in shown
    for word in shown.replace("'", " ").split():
        if word.startswith(("jobs/", "tempo_ray/")) and word.endswith((".py", ".yaml")):
            assert (ROOT / word).is_file(), word
    words = shown.split("Keys:")[0].split()
    named = [after for word, after in itertools.pairwise(words) if word == "--config"]
    assert set(named) - {"NAME):"} <= set(shipped_configs())


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    usage = capsys.readouterr().out
    assert all(command in usage for command in COMMANDS)
    with pytest.raises(SystemExit) as ended:
        main(["fly"])
    assert ended.value.code == 2
    assert "no command fly" in capsys.readouterr().err
    main(["--version"])
    assert capsys.readouterr().out.startswith("tempo-ray 0.")


@pytest.mark.parametrize("job", ["generate_pairs", "train"])
def test_help_is_instant(job: str) -> None:
    def seconds() -> float:
        """Of CPU time: wall time is also that of whatever else this machine does."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, f"jobs/{job}.py", "--help"]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1.0


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_valid(name: str) -> None:
    """A file serves every job that it has a section for."""
    sections = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    assert sections
    assert set(sections) <= set(SECTIONS)
    for job in sections:
        model, words = SECTIONS[job]
        load_config(model, name, words, section=job)


@pytest.mark.parametrize("job", [job for job in SECTIONS if job != "study"])
def test_each_job_reads_its_own_section(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([job.replace("_", "-"), "--config", "embedded", "nonsense=1"])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("nonsense: no such key") for line in lines)
    assert all(line.startswith("nonsense: ") or ": missing" in line for line in lines), lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate-pairs", "explain", "run=r"], "explain needs a PAIR_ID"),
        (["generate-pairs", "export", "csv", "run=r"], "one of trl, ms_swift, llama_factory"),
        (["evaluate", "compare", "a.parquet"], "compare takes two score files"),
        (["train", "--config"], "--config needs a shipped config's name or a file"),
        (["train", "--config", "nowhere"], "name a file, or a shipped config: cluster, embedded"),
    ],
)
def test_mistakes_are_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
