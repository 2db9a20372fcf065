"""Attempts that may end the interpreter, each in a process of its own: an engine on a processor that it was not built
for, a GPU driver, a TensorRT library.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from typing import Any, NamedTuple

from .errors import SegrdError

TIMEOUT_S = 60
_KEY = "segrd-edge answers"  # marks the line among whatever libraries print


class Answer(NamedTuple):
    """What became of one attempt."""

    works: bool
    value: Any  # what the function returned; None where it did not
    detail: str = ""  # why it did not
    fix: str = ""


def ask(function: str, *arguments: Any, timeout_s: float = TIMEOUT_S) -> Answer:
    """Call a function in a process of its own.

    Args:
        function: "module:function".
        arguments: what JSON can carry; so must be what the function returns.
    """
    code = f"from segrd_edge.probe import _answer; _answer({function!r}, {json.dumps(arguments)!r})"
    command = [sys.executable, "-c", code]
    # As for an installed program, what lies in the current folder is not imported (Python 3.11 and later).
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Answer(False, None, f"no answer within {timeout_s:g} s")
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(f'{{"{_KEY}"'):
            return Answer(*json.loads(line)[_KEY])
    if done.returncode < 0:
        return Answer(False, None, f"the process was ended by signal {-done.returncode}")
    return Answer(False, None, _exception_text(done.stderr))


def _answer(function: str, arguments: str) -> None:
    """The other process: call, and print what came of it."""
    module, _, name = function.partition(":")
    try:
        answer = Answer(True, getattr(import_module(module), name)(*json.loads(arguments)))
    except SegrdError as error:
        expected = f" (expected: {error.expected})" if error.expected else ""
        answer = Answer(False, None, error.what + expected, error.fix)
    print("\n" + json.dumps({_KEY: answer}), flush=True)


def _exception_text(stderr: str) -> str:
    """The message of a traceback, without the stack and without the exception's class."""
    last = re.split(r"^(?=\S*(?:Error|Exception)\b)", stderr.strip(), flags=re.MULTILINE)[-1]
    return re.sub(r"^[\w.]+: ", "", last).strip() or "failed without a message"
