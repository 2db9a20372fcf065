"""The models that tests go through one by one, each small enough for it."""

from __future__ import annotations

import inspect
from typing import Any

from segrd_edge.training.models import MODELS

# Registered names, and options whose graphs have other operators.
_OPTIONS: dict[str, dict[str, Any]] = {
    "destseg stride 8": {"head_level_width": 16, "head_stride": 8},
    "rdpp instance": {"projection_norm": "instance"},
}
EVERY_MODEL = [*MODELS, *_OPTIONS]


def name_and_options(case: str, head_width: int) -> tuple[str, dict[str, Any]]:
    """The registered name and its options, with a narrow head where there is one."""
    name, options = case.split()[0], dict(_OPTIONS.get(case, {}))
    if "head_width" in inspect.signature(MODELS[name]).parameters:
        options["head_width"] = head_width
    return name, options
