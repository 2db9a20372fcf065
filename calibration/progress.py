"""How long work tells how far it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Wraps items that are worked through, under a description: `segrd_edge.console.track` is one, and draws a bar.
Track = Callable[[Sequence[Any], str], Iterable[Any]]

Said = Callable[[str], None]  # is told a line of progress


def untracked(items: Sequence[Any], description: str) -> Sequence[Any]:
    """Shows nothing."""
    return items
