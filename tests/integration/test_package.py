"""The wheel, built from the repository and installed into an empty environment of every supported
Python on this machine, works from an empty folder: its console script lists, refuses and runs.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
SUPPORTED = ("3.11", "3.12", "3.13")

pytestmark = pytest.mark.skipif(not UV.exists(), reason="needs uv beside python, as make installs")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """With nothing of this environment but the PATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def python_of(version: str) -> Path | None:
    """On the PATH, or among pyenv's; a shim is on the PATH for versions that do not run."""
    if sys.version.startswith(f"{version}."):
        return Path(sys.executable)
    found = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [Path(found)] if found else []
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"))
    for candidate in candidates:
        if run(candidate, "-c", "pass", cwd=ROOT).returncode == 0:
            return candidate
    return None


AVAILABLE = [version for version in SUPPORTED if python_of(version) is not None]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing that lies about in the checkout gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tempo_ray", source / "tempo_ray", ignore=ignored)
    built = run(UV, "build", "--quiet", "--wheel", "--out-dir", "dist", cwd=source)
    assert built.returncode == 0, built.stderr
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module", params=AVAILABLE)
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The console script of an environment that has the pinned packages and the wheel."""
    python = python_of(request.param)
    assert python is not None
    folder = tmp_path_factory.mktemp("environment") / "venv"
    created = run(UV, "venv", "--quiet", "--python", python, folder, cwd=ROOT)
    assert created.returncode == 0, created.stderr
    install = [UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "--no-deps"]
    done = run(*install, "-r", ROOT / "requirements" / "cpu.txt", wheel, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "tempo-ray"


def test_the_wheel_has_what_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "tempo_ray/configs/embedded.yaml" in names
    assert "tempo_ray/shapeworld/models/qwen2_5_vl/model.safetensors" in names
    assert "tempo_ray/py.typed" in names
    assert not any(name.startswith(("tests/", "jobs/", "benchmarks/")) for name in names)


def test_the_console_script_lists_and_refuses(installed: Path, tmp_path: Path) -> None:
    assert "generate-pairs" in run(installed, "--help", cwd=tmp_path).stdout
    assert "Keys:" in run(installed, "train", "--help", cwd=tmp_path).stdout
    refused = run(installed, "generate-pairs", "--config", "embedded", "run=r", cwd=tmp_path)
    assert (refused.returncode, "videos: missing" in refused.stderr) == (2, True)


@pytest.mark.parametrize("installed", AVAILABLE[-1:], indirect=True)
def test_a_job_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """On the newest Python alone: the other tests run on another one."""
    drawn = run(installed, "make-shapeworld", "output=world", "videos=2", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    assert len(list((tmp_path / "world" / "videos").glob("*.mp4"))) == 2
    assert "2 videos" in drawn.stdout
