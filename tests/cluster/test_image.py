"""cluster/Dockerfile: its versions are those of requirements/ and pyproject.toml, and what it
copies exists. It is not built."""

import re

import pytest

from tests.cluster.manifests import CLUSTER, PROJECT, ROOT, pinned

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in DOCKERFILE.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def copied() -> list[str]:
    """The sources of COPY, for each value of DEVICE."""
    sources = [
        word for rest in arguments("COPY") for word in rest.split()[:-1] if not word.startswith("-")
    ]
    return [
        source.replace("${DEVICE}", device)
        for source in sources
        for device in (("gpu", "cpu") if "${DEVICE}" in source else ("",))
    ]


def test_the_base_images_are_of_the_pinned_ray_and_a_supported_python() -> None:
    images = [
        re.fullmatch(r"rayproject/ray:([\d.]+)-py3(\d+)-(\w+) AS (\w+)", rest)
        for rest in arguments("FROM")
    ]
    *named, last = images
    assert last is None
    assert arguments("FROM")[-1] == "${DEVICE}"
    found = {image[4]: image for image in named if image}
    assert found.keys() == {"gpu", "cpu"}
    low, high = re.findall(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', PROJECT, re.MULTILINE)[0]
    for device, image in found.items():
        assert image[1] == pinned("ray", device)
        assert int(low) <= int(image[2]) < int(high)


def test_cuda_is_that_of_the_pinned_torch() -> None:
    """nvidia-cuda-runtime comes with torch; the base image's nvcc must be of its major version."""
    [tag] = re.findall(r"-cu(\d+) AS gpu", DOCKERFILE)
    assert tag == "".join(pinned("nvidia-cuda-runtime").split(".")[:2])


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_sent_to_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    sent = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert f"!{source.split('/')[0]}" in sent


def test_what_the_jobs_of_manifests_start_is_in_the_working_directory() -> None:
    [workdir] = arguments("WORKDIR")
    assert f"jobs {workdir}/jobs" in arguments("COPY")


def test_it_ends_as_an_ordinary_user() -> None:
    assert arguments("USER")[-1] == "1000:100"


def test_pip_resolves_nothing() -> None:
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert installs
    assert all("--no-deps" in rest for rest in installs)
