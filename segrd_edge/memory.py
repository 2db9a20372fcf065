"""What will not fit is said before the work begins, not by the system's killing it in the middle."""

from __future__ import annotations

from .errors import SegrdError
from .machine import available_memory_bytes


def check_memory(what: str, needed_bytes: int, fix: str, error: type[SegrdError]) -> None:
    """Raise `error` where `what` takes more memory than is available now; nothing where the system does not say."""
    available = available_memory_bytes()
    if available is not None and needed_bytes > available:
        raise error(
            f"{what} would take {needed_bytes / 2**30:.1f} GiB of memory",
            expected=f"no more than the {available / 2**30:.1f} GiB that are available",
            fix=fix,
        )
