"""What INT8 by a plan does to the results: the graph is made, run on calibration frames, and compared with float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.engines import EngineOutput

from .drift import Drift, Scale, Truth, measure_drift
from .plan import Plan
from .quantise import draft
from .ranges import Ranges
from .session import run_engine

_Split = tuple[tuple[str, ...], frozenset[str], bool]  # a plan without its reasons: INT8, of these in two terms, skips


@dataclass(frozen=True)
class Trial:
    """Everything that trials of one network have in common; calling it tries a plan."""

    model: onnx.ModelProto  # float
    ranges: Ranges
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]]  # network images
    reference: Sequence[EngineOutput]  # of the float graph for them
    scale: Scale
    truth: Truth
    engine: str
    _known: dict[_Split, Drift] = field(default_factory=dict, init=False, repr=False, compare=False)
    _parts: dict[int, Trial] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, plan: Plan) -> Drift:
        """What `plan` does; run once, however often it is asked and for whatever reasons."""
        split = plan.quantised, frozenset(plan.two_term), plan.float_skips
        if split not in self._known:
            self._known[split] = self._run(plan)
        return self._known[split]

    def _run(self, plan: Plan) -> Drift:
        outputs = list(run_engine(self.engine, draft(self.model, self.ranges, plan), self.images_bgr_u8))
        return measure_drift(self.reference, outputs, self.scale, self.truth)

    def on(self, count: int) -> Trial:
        """The same on at most `count` of the images, good ones and such with defects alike, evenly spaced."""
        if count not in self._parts:
            self._parts[count] = self._part(_spread(self.truth, count))
        return self._parts[count]

    def _part(self, chosen: Sequence[int]) -> Trial:
        return Trial(
            self.model,
            self.ranges,
            [self.images_bgr_u8[i] for i in chosen],
            [self.reference[i] for i in chosen],
            self.scale,
            Truth([self.truth.masks[i] for i in chosen], self.truth.threshold),
            self.engine,
        )


def _spread(truth: Truth, count: int) -> list[int]:
    good = [i for i, mask in enumerate(truth.masks) if mask is None]
    defect = [i for i, mask in enumerate(truth.masks) if mask is not None]
    few = min(len(good), len(defect), count // 2)  # of the rarer kind as many as there are
    counts = (count - few, few) if len(defect) <= len(good) else (few, count - few)
    chosen = [_evenly(kind, share) for kind, share in zip((good, defect), counts, strict=True)]
    return sorted(i for kind in chosen for i in kind)


def _evenly(items: Sequence[int], count: int) -> list[int]:
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
