"""The models that tests go through one by one, each small enough for it."""

from __future__ import annotations

import inspect
from typing import Any

from segrd_edge.training.models import MODELS, profile_options

# A case is a registered name, or one with a profile whose graph has other operators.
EVERY_MODEL = [*MODELS, "destseg fast"]


def name_and_options(case: str, head_width: int) -> tuple[str, dict[str, Any]]:
    """The registered name and its options, with a narrow head where there is one."""
    name, _, profile = case.partition(" ")
    options = profile_options(name, profile) if profile else {}
    if "head_width" in inspect.signature(MODELS[name]).parameters:
        options["head_width"] = head_width
    return name, options
