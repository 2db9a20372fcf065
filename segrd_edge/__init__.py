"""segrd-edge: photographs of good parts in, an INT8 defect detector for the line out.

`import segrd_edge` loads nothing but this file: the public names below are imported when first used, so that a command
line's `--help` and a line's start-up do not pay for OpenCV or an engine that they may not need.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .detector import Detector as Detector
    from .errors import SegrdError as SegrdError
    from .inspection import Inspection as Inspection
    from .inspection import Region as Region
    from .overlay import draw_overlay as draw_overlay
    from .pool import DetectorPool as DetectorPool
    from .pool import Outcome as Outcome
    from .preprocess import Preprocess as Preprocess

__version__ = "0.1.0"

# Python run from the root of a source checkout finds this folder before the installed package; the stations
# (training, export, ...) then stand beside it instead of inside it.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "setup.py").is_file() and (_CHECKOUT / "training").is_dir():
    __path__.append(str(_CHECKOUT))

_HOME = {
    "Bundle": "bundle",
    "Detector": "detector",
    "DetectorPool": "pool",
    "Inspection": "inspection",
    "Outcome": "pool",
    "Preprocess": "preprocess",
    "Region": "inspection",
    "SegrdError": "errors",
    "draw_overlay": "overlay",
}
__all__ = [
    "Bundle",
    "Detector",
    "DetectorPool",
    "Inspection",
    "Outcome",
    "Preprocess",
    "Region",
    "SegrdError",
    "draw_overlay",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
