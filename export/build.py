"""After an export for TensorRT: its engines, built and tested where this machine can; a notice where it cannot."""

from __future__ import annotations

import shlex
from pathlib import Path

from segrd_edge.console import console
from segrd_edge.errors import OptionError

from .target import Target


def check_lean(target: Target) -> None:
    """Raises:
    OptionError: the target has no lean runtime.
    """
    if target.engine != "tensorrt":
        raise OptionError(
            f"--lean for the engine {target.engine}",
            expected="TensorRT, which alone has a lean runtime",
            fix="add --engine tensorrt, or leave --lean out",
        )


def build_here(bundle: Path, target: Target, *, lean: bool = False, as_json: bool = False) -> bool:
    """Do what `segrd-build` does, or say why not here. The bundle is whole in either case: an engine is built from it
    on the machine that runs it, and kept there.

    Args:
        lean: put the engine into the bundle as well.
        as_json: tables go to stderr, and the result is a line of JSON.

    Returns:
        Whether engines were built, or were there already.

    Raises:
        EngineError: this machine can build, and no engine works or passes its self-test.
    """
    from segrd_edge import build_cli
    from segrd_edge.tensorrt import requirements

    lack = requirements.lack(target.engine)
    if lack is not None:
        line = shlex.join(["segrd-build", bundle.name, "--engine", target.engine, *(["--lean"] if lean else [])])
        console.print(f"no engine was built here: {lack.what}", style="yellow", markup=False, soft_wrap=True)
        console.print(
            f"The bundle is complete. Where it is to run: {line}, or let the first start build.",
            markup=False,
            soft_wrap=True,
        )
        return False
    build_cli.command(bundle, engine=target.engine, lean=lean, json=as_json)
    return True
