"""Parity: the deploy graph must give what the torch model gives, or nothing is exported.

Compared on golden network images, good and with synthetic defects, in ONNX Runtime with float32: raw output (logits),
anomaly map and score. Logits matter because a saturated sigmoid hides errors.

Map and score may differ by 1e-4, and so may logits up to 1; larger ones by 5e-5 of the image's largest more, because
float32 cannot do better. Measured against float64 on DeSTSeg at 256×256: logits of a bottle detector reach −262, where
torch is wrong by 3.1e-4, ONNX Runtime by 1.4e-4, and both differ by 3.5e-4. With random weights, which amplify
rounding, the two differed by 1.3e-4 at logits up to 13 and, summing in another order on two threads, by 3.0e-4 at
logits up to 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from segrd_edge.calibration.graph import expose
from segrd_edge.calibration.session import run_graph
from segrd_edge.errors import ExportError
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.maps import anomaly_map, anomaly_score, normalise

TOLERANCE = 1e-4  # absolute
ROUNDING = 5e-5  # of the largest logit, on top

_Array = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """Everything that is compared, for one image."""

    raw: _Array
    map: _Array
    score: _Array


def check_parity(
    model: nn.Module,
    deploy: onnx.ModelProto,
    preprocess: Preprocess,
    spec: MapSpec,
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
) -> dict[str, float]:
    """Largest absolute differences by output: {"raw": …, "map": …, "score": …}.

    Args:
        model: in eval mode, on the CPU, BatchNorm not folded.
        deploy: the float32 deploy graph.
        images_bgr_u8: golden network images, h×w×3.

    Raises:
        ExportError: a difference that rounding does not explain (see the module's docstring), or NaN.
    """
    exposed = expose(deploy, ["raw"])
    got = (Outputs(*values) for values in run_graph(exposed, ["raw", "anomaly_map", "score"], images_bgr_u8))
    worst = dict.fromkeys(Outputs._fields, 0.0)
    for image, outputs in zip(images_bgr_u8, got, strict=True):
        wanted = torch_outputs(model, preprocess, spec, image)
        for name, a, b in zip(Outputs._fields, wanted, outputs, strict=True):
            worst[name] = max(worst[name], _compare(name, a, b))
    return worst


def _compare(name: str, wanted: _Array, got: _Array) -> float:
    """Largest absolute difference; refuses one that is too large."""
    difference = float(np.abs(wanted - got).max())
    allowed = TOLERANCE + (ROUNDING * float(np.abs(wanted).max()) if name == "raw" else 0)
    if not difference <= allowed:  # also where it is NaN
        raise ExportError(
            f"the ONNX graph differs from the torch model: {name} by {difference:.3g} on a golden image",
            expected=f"at most {allowed:.3g}",
            fix="report this with the model's options: an op was exported with another meaning",
        )
    return difference


@torch.inference_mode()
def torch_outputs(
    model: nn.Module, preprocess: Preprocess, spec: MapSpec, image_bgr_u8: npt.NDArray[np.uint8]
) -> Outputs:
    """What the torch model gives for one network image, shaped as the deploy graph's outputs."""
    raw = model(normalise(torch.from_numpy(image_bgr_u8).unsqueeze(0), preprocess))
    maps = anomaly_map(raw, spec, preprocess.size_hw)
    return Outputs(raw.numpy(), maps.numpy(), anomaly_score(maps, spec).numpy())
