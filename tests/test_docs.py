"""Every code block of README.md and docs/ runs, in the order in which a reader meets it.

Blocks marked `bash` and `python` run in one sandbox that starts with photographs of a part. Only the budget is
smaller: a few steps of a small network. Lines that call make are parsed by make, and not run. Blocks marked `console`
belong to a machine with a GPU, or take long: of their lines `$ segrd-…` the options are looked up. Blocks marked `text`
are pictures of something.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from .conftest import write_photos

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (
    *("your-own-photographs", "models", "threshold", "int8"),
    *("embedding", "latency", "tensorrt", "jetson", "bundle-format"),
)
PAGES = ["README.md", *(f"docs/{name}.md" for name in GUIDES)]
SMALL = "--steps 4 --batch 4 --size 64 --option head_width=16"  # instead of minutes
SMALL_EXPORT = "--calibration-images 32 --int8-scope head"  # no search for a plan
ALLOWED = {"segrd-inspect": (0, 1)}  # 1 says that defects were found


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        matches = re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [Block(page, text[: m.start()].count("\n") + 2, m[1], m[2]) for m in matches]
    return found


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/bottle and frames/, and a bundle of it, as a reader of the first page would have."""
    folder = tmp_path_factory.mktemp("reader")
    photos = write_photos(folder / "photos/bottle", good=24)
    (folder / "frames").mkdir()
    for i, path in enumerate(sorted((photos / "test").rglob("*.png"))):
        shutil.copy(path, folder / f"frames/{i:03d}.png")
    run(folder, f"segrd-train photos/bottle --out runs/first {SMALL}")
    run(folder, f"segrd-export {SMALL_EXPORT} runs/first --int8 --out bottle.segrd --no-report")
    return folder


def run(folder: Path, command: str) -> None:
    """One shell line, with this interpreter's programs on the path."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["SEGRD_CACHE"] = str(folder / "cache")
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    allowed = ALLOWED.get(command.split()[0], (0,))
    assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_block_runs(block: Block, sandbox: Path) -> None:
    if block.language == "text":
        pytest.skip("not code")
    if block.language == "python":
        script = sandbox / "block.py"
        script.write_text(block.text, encoding="utf-8")
        run(sandbox, f"{sys.executable} block.py")
        return
    if block.language == "console":
        check_options(block)
        return
    assert block.language == "bash", f"a block of language {block.language!r} is not tested"
    for line in block.text.replace("\\\n", " ").splitlines():
        command = line.partition("  #")[0].strip()
        if command.startswith(("segrd-train", "segrd-inspect")):  # an earlier block may have written there
            shutil.rmtree(sandbox / command.split("--out ")[1].split()[0], ignore_errors=True)
        command = re.sub(r"--(minutes|steps) \S+", SMALL, command)
        command = command.replace("segrd-export ", f"segrd-export {SMALL_EXPORT} ")
        if command.startswith("make "):
            assert subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0
        elif command.startswith(("pip ", "git ", "cd segrd")):
            continue  # installation is what CI does before it runs this
        elif command:
            run(sandbox, command)


def check_options(block: Block) -> None:
    for line in block.text.splitlines():
        program, *words = line.removeprefix("$ ").partition("  #")[0].split()
        assert line.startswith("$ "), f"a line of {block} is no command: {line}"
        options = [word for word in words if word.startswith("--")]
        if program.startswith("segrd-"):
            known = help_of(program)
            assert not [option for option in options if option not in known], line


@cache
def help_of(program: str) -> set[str]:
    """Every option that a program's --help names."""
    command = [str(Path(sys.executable).parent / program), "--help"]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(re.findall(r"--[a-z][\w-]*", done.stdout))


def test_every_guide_is_tested() -> None:
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} == set(GUIDES)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
