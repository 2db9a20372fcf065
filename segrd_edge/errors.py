"""What can go wrong, one class per kind. Every message says what happened, what was expected and what fixes it."""

from __future__ import annotations


class SegrdError(Exception):
    """Base of all errors that segrd-edge raises on purpose.

    Args:
        what: what happened, with the values that matter.
        expected: what would have been right.
        fix: the command, call or edit that mends it.
    """

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        self.what, self.expected, self.fix = what, expected, fix
        lines = [what]
        if expected:
            lines.append(f"expected: {expected}")
        if fix:
            lines.append(f"fix: {fix}")
        super().__init__("\n".join(lines))


class OptionError(SegrdError, ValueError):
    """An argument or command-line option has a value that cannot work."""


class FrameError(SegrdError, ValueError):
    """A frame does not meet the frame contract (see `segrd_edge.frames`)."""


class DataError(SegrdError):
    """A folder of photographs cannot be used as it is."""


class BundleError(SegrdError):
    """A bundle is truncated, edited, foreign or of an unknown schema version."""


class EngineError(SegrdError, RuntimeError):
    """An engine is missing, cannot load a graph, or failed to run it."""


class PoolError(SegrdError, RuntimeError):
    """A `DetectorPool` did not take a frame."""


class QueueFullError(PoolError):
    """A `DetectorPool` did not take a frame, because as many of its camera wait as may."""


class ThresholdError(SegrdError):
    """A threshold cannot be set or guaranteed from the scores at hand."""


class ExportError(SegrdError):
    """A model was not exported because the result would not be the same model."""


class TrainingError(SegrdError):
    """A run cannot be started, resumed or loaded."""


class MissingExtraError(SegrdError, ImportError):
    """A feature needs packages that this installation does not have."""

    def __init__(self, feature: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{feature} needs the package {missing!r}, which is not installed",
            expected=f"segrd-edge installed with its [{extra}] extra",
            fix=f"pip install 'segrd-edge[{extra}]'",
        )
