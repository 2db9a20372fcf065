"""Round the weights of convolutions so that the errors of one make up for those of others.

To the nearest step, every weight is off by up to half of one, and the errors of a kernel add up as they come. Here a
kernel is rounded weight by weight, and what rounding one leaves over goes into those not yet rounded, by as much as
their inputs go together (Frantar et al., GPTQ, ICLR 2023, equations 2 and 3 with its Cholesky form). With W of a
convolution as outputs×columns, one column for each place in the kernel, X what the columns read on calibration frames
as columns×samples, and H = X Xᵀ, the error that counts is that of the outputs,

    ‖(W − Ŵ) X‖²  =  Σ over outputs of  (w − ŵ) H (w − ŵ)ᵀ

Of every output channel the scale stays, with its largest weight at ±127, and a channel for which the result is worse
than the nearest steps keeps those. Convolutions know nothing of each other: each is rounded for what it reads in float,
and to the same values whichever others are, so that a plan that is given back gives the graph that it came from.

Images make neighbouring columns nearly equal, which is why this brings so much here: on a trained ADPS the errors of
the outputs fell to between 1 and 40 % in power. What that does to scores and maps: docs/int8.md, "Improving the
weights".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from .graph import expose, read_graph
from .progress import Track, untracked
from .rules import conv_weight
from .session import GraphSession

ROUNDING_FRAMES = 32  # good ones and such with defects; more samples of fewer frames would be more of the same
SAMPLES = 128  # places of each convolution's output per frame
# 3×3 of 128 channels: kernels with more are rounded in parts of so many, which cost its cube each. Twice as many
# brought nothing on a trained ADPS (mean |Δscore| with all inputs in two terms 0.0008 either way, 0.0051 with nearest
# steps), half as many 0.0011.
COLUMNS = 1152
DAMPING = 0.01  # of the mean of H's diagonal, added to all of it: directions that no frame shows are not free
_CHUNK = 64  # columns whose leftovers are handed on together
_BYTES = 512 * 2**20  # of H that is held at a time; further convolutions take another pass over the frames

_Values = npt.NDArray[np.int8]
_Matrix = npt.NDArray[np.float32]


def round_weights(
    model: onnx.ModelProto,
    names: Sequence[str],
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
    *,
    track: Track = untracked,
) -> dict[str, _Values]:
    """INT8 values for the weights of the convolutions `names` of a float deploy graph, for `Ranges.weights`.

    Left out are grouped convolutions and those that share a weight: they keep the nearest steps.

    Args:
        images_bgr_u8: calibration frames as network images (h×w×3), at least one.
        track: wraps frames and convolutions, for a progress bar.
    """
    convolutions = [node for node in read_graph(model).nodes if node.op == "Conv"]
    nodes = {node.name: node for node in convolutions if node.name in names}
    windows = {name: _Window.of(node) for name, node in nodes.items() if _has_its_own(node)}
    # What all of them read, `names` or not: ONNX Runtime fuses around outputs, and what it fuses rounds otherwise.
    exposed = expose(model, list(dict.fromkeys(node.inputs[0].name for node in convolutions)))
    rounded: dict[str, _Values] = {}
    for few in _passes(windows):
        seen = _together(exposed, few, images_bgr_u8, track=track)
        for name in track(list(few), "rounding weights"):
            rounded[name] = _rounded(nodes[name].inputs[1].values, seen.pop(name))
    return rounded


def _has_its_own(conv: gs.Node) -> bool:
    """One weight that is of all channels of the input, and nobody else's."""
    return conv.attrs.get("group", 1) == 1 and len(conv.inputs[1].outputs) == 1


@dataclass(frozen=True)
class _Window:
    """What a convolution reads for one place of its output."""

    tensor: str
    channels: int
    kernel_hw: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right

    @classmethod
    def of(cls, conv: gs.Node) -> _Window:
        _, channels, *kernel_hw = conv.inputs[1].values.shape
        strides, dilations = (tuple(conv.attrs.get(name, (1, 1))) for name in ("strides", "dilations"))
        pads = tuple(conv.attrs.get("pads", (0, 0, 0, 0)))
        return cls(conv.inputs[0].name, channels, tuple(kernel_hw), strides, dilations, pads)

    @property
    def parts(self) -> list[slice]:
        """The columns, of whole channels, that are rounded together."""
        area = self.kernel_hw[0] * self.kernel_hw[1]
        count = -(-self.channels * area // COLUMNS)
        edges = [self.channels * i // count * area for i in range(count + 1)]
        return [slice(*pair) for pair in pairwise(edges)]

    def samples(self, values: npt.NDArray[np.float32], generator: np.random.Generator) -> _Matrix:
        """columns×samples: what `SAMPLES` random places read of a 1×C×h×w input, in the order of the weight's axes."""
        top, left, bottom, right = self.pads
        padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
        reach_hw = [d * (k - 1) for d, k in zip(self.dilations, self.kernel_hw, strict=True)]
        rows, columns = (
            (side - reach - 1) // stride + 1
            for side, reach, stride in zip(padded.shape[1:], reach_hw, self.strides, strict=True)
        )
        places = generator.choice(rows * columns, min(SAMPLES, rows * columns), replace=False)
        y, x = places // columns * self.strides[0], places % columns * self.strides[1]
        read = [
            padded[:, y + i * self.dilations[0], x + j * self.dilations[1]]
            for i in range(self.kernel_hw[0])
            for j in range(self.kernel_hw[1])
        ]
        return np.stack(read, axis=1).reshape(-1, len(places))


def _passes(windows: Mapping[str, _Window]) -> Iterator[dict[str, _Window]]:
    few: dict[str, _Window] = {}
    held = 0
    for name, window in windows.items():
        size = sum(4 * (part.stop - part.start) ** 2 for part in window.parts)
        if few and held + size > _BYTES:
            yield few
            few, held = {}, 0
        few[name], held = window, held + size
    if few:
        yield few


def _together(
    exposed: onnx.ModelProto,
    windows: Mapping[str, _Window],
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
    *,
    track: Track,
) -> dict[str, list[_Matrix]]:
    """Convolution → H of each of its parts. `exposed` has what they read among its outputs."""
    tensors = list(dict.fromkeys(window.tensor for window in windows.values()))
    session = GraphSession(exposed, tensors)
    generators = {name: np.random.default_rng(0) for name in windows}  # one each: no places depend on who else draws
    sums: dict[str, list[_Matrix]] = {}
    for image in track(images_bgr_u8, "what convolutions read"):
        read = dict(zip(tensors, session.run(image), strict=True))
        for name, window in windows.items():
            samples = window.samples(read[window.tensor], generators[name])
            products = [samples[part] @ samples[part].T for part in window.parts]
            sums[name] = [a + b for a, b in zip(sums[name], products, strict=True)] if name in sums else products
    return sums


def _rounded(weight: npt.NDArray[np.float32], together: Sequence[_Matrix]) -> _Values:
    """A convolution's weight (outputs×…) as INT8 values of the same shape."""
    nearest, scale = conv_weight.quantise_weight(weight)
    steps = weight.reshape(len(weight), -1).astype(np.float64) / scale[:, None]
    found = nearest.reshape(steps.shape).copy()
    largest = np.abs(steps).argmax(axis=1)
    start = 0
    for one in together:
        part = slice(start, start + len(one))
        start = part.stop
        found[:, part] = _handed_on(steps[:, part], one.astype(np.float64), largest - part.start, found[:, part])
    return found.reshape(weight.shape)


def _handed_on(
    steps: npt.NDArray[np.float64], together: npt.NDArray[np.float64], largest: npt.NDArray[np.intp], nearest: _Values
) -> _Values:
    """Weights in steps (outputs×columns), rounded one column after the other.

    Args:
        together: H.
        largest: of every output, the column of its largest weight, which stays; outside of the columns is nowhere.
        nearest: what outputs keep for which the result is worse.
    """
    damping = DAMPING * float(np.mean(np.diag(together))) or 1.0
    upper = np.linalg.cholesky(np.linalg.inv(together + damping * np.eye(len(together)))).T
    left, found = steps.copy(), np.empty_like(steps)
    for start in range(0, steps.shape[1], _CHUNK):
        chunk = slice(start, min(start + _CHUNK, steps.shape[1]))
        errors = np.empty((len(steps), chunk.stop - start))
        for column in range(start, chunk.stop):
            value = np.clip(np.rint(left[:, column]), -conv_weight.INT8_MAX, conv_weight.INT8_MAX)
            value = np.where(largest == column, nearest[:, column], value)
            found[:, column] = value
            error = (left[:, column] - value) / upper[column, column]
            left[:, column + 1 : chunk.stop] -= np.outer(error, upper[column, column + 1 : chunk.stop])
            errors[:, column - start] = error
        left[:, chunk.stop :] -= errors @ upper[chunk, chunk.stop :]
    worse = _power(steps - found, together) >= _power(steps - nearest, together)
    return np.where(worse[:, None], nearest, found).astype(np.int8)


def _power(errors: npt.NDArray[np.float64], together: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of every output: e H eᵀ."""
    return np.einsum("oc,oc->o", errors @ together, errors)
