"""What counts as a number where a user gives one: NumPy's do, True and False do not, nor NaN and infinity."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """A real number that a float can hold."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an int that none can
        return False
