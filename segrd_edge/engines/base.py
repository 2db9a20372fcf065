"""The one interface between a `Detector` and whatever executes its graph.

A graph takes n items at once: `image` (uint8 n×h×w×3 BGR, network size), or `frame` (uint8 n×H×W×3 BGR, the camera's
own size, with the resize inside). It gives `score` (float32 [n]) and `anomaly_map` (float32 n×h×w in [0, 1]). All sizes
are fixed in the graph. The public methods here hold every check; a subclass writes `_load`, `_allocate`, `_run` and
`_unload`, and `open` where it chooses among a bundle's graphs in a way of its own.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ..checks import is_whole
from ..errors import EngineError, OptionError

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Manifest, Precision
    from ..tensorrt.progress import Progress

_logger = logging.getLogger("segrd_edge")
Memory = Literal["auto", "pinned", "mapped"]
_MOST_THREADS = 1024  # engines start as many as they are told to


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs. Each engine heeds what it has: processor threads on a CPU, the rest on a GPU.

    Raises:
        OptionError: a value that cannot work.
    """

    threads: int | None = None  # processor threads of one run; None leaves the choice to the engine (all cores)
    memory: Memory = "auto"  # how frames reach a GPU: copied from pinned memory, or read in place from mapped memory
    cuda_graph: bool = True  # replay one captured CUDA graph per run instead of enqueuing its parts
    device: int = 0  # index of the GPU

    def __post_init__(self) -> None:
        if self.threads is not None and not (is_whole(self.threads) and 1 <= self.threads <= _MOST_THREADS):
            raise OptionError(
                f"threads={self.threads!r}",
                expected=f"a whole number, 1 to {_MOST_THREADS}, or None for the engine's own choice",
            )
        if self.memory not in get_args(Memory):
            raise OptionError(f"memory={self.memory!r}", expected="one of " + ", ".join(get_args(Memory)))
        if not (is_whole(self.device) and self.device >= 0):
            raise OptionError(f"device={self.device!r}", expected="0 or the index of another GPU")


DEFAULT_OPTIONS = EngineOptions()


class EngineOutput(NamedTuple):
    """What one run gives."""

    score: float
    anomaly_map: npt.NDArray[np.float32]  # h×w; may be the engine's own buffer, valid until the next run


class Port(NamedTuple):
    """One input or output of a graph: element type as numpy names it, shape with -1 where it is not fixed."""

    dtype: str
    shape: tuple[int, ...]


class Ports(NamedTuple):
    inputs: dict[str, Port]
    outputs: dict[str, Port]


class Engine(ABC):
    """A graph, loaded and ready to run. Not safe to call from several threads at once; the Detector locks.

    Args:
        graph: the serialised ONNX graph.

    Raises:
        EngineError: the package is missing, or the graph cannot be loaded or is not one of segrd-export's.
    """

    name: ClassVar[str]
    package: ClassVar[str]  # the import name, which is also the distribution's name
    install: ClassVar[str]  # the command that installs it
    is_automatic: ClassVar[bool] = True  # whether the engine "auto" may be this one
    # Of a bundle's precisions, those that are worth running here: a processor runs fp16 as float32 with conversions.
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")

    def __init__(self, graph: bytes, options: EngineOptions = DEFAULT_OPTIONS) -> None:
        if not self.is_available():
            raise EngineError(
                f"the engine {self.name} needs the package {self.package!r}, which is not installed",
                fix=self.install,
            )
        self._closed = False
        try:
            ports = self._load(graph, options)
        except (ImportError, OSError) as error:  # installed, but a library that it needs is not
            raise EngineError(
                f"the engine {self.name} cannot be imported: {error}", fix=f"{self.install}; then segrd-doctor"
            ) from error
        sizes = _read_ports(self.name, ports)
        self.input_name = sizes.input_name
        self.batch = sizes.batch  # items of one run
        self.input_hw = sizes.input_hw  # of an item
        self.size_hw = sizes.size_hw  # network size: that of the anomaly map
        self._allocate()

    @property
    def takes_frames(self) -> bool:
        """Whether items are whole frames of `input_hw`, resized in the graph, instead of network images."""
        return self.input_name == "frame"

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        precision: str = "auto",
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        progress: Progress | None = None,
    ) -> tuple[Engine, Precision]:
        """Load a graph of a bundle, and say which.

        Args:
            precision: "auto" is the engine's own choice among the bundle's, else one of those.
            progress: told how far a build is, by an engine that builds.

        Raises:
            OptionError: the bundle has no graph of this precision.
            BundleError, EngineError: the graph is damaged, or cannot be loaded here.
        """
        if options.device:
            _logger.warning(
                "the engine %s runs on the processor: device=%d says nothing to it", cls.name, options.device
            )
        chosen = cls.automatic_precision(bundle.manifest) if precision == "auto" else bundle.precision(precision)
        return cls._of_bundle(bundle, chosen, options), chosen

    @classmethod
    def _of_bundle(cls, bundle: Bundle, precision: Precision, options: EngineOptions) -> Engine:
        """A graph of a bundle, loaded; for an engine that keeps what it makes of graphs."""
        return cls(bundle.graph(precision), options)

    @classmethod
    def automatic_precision(cls, manifest: Manifest) -> Precision:
        """The bundle's default, or fp32 where this engine runs INT8 slower than that."""
        default = manifest.default_precision
        slow_int8 = default in ("int8", "mixed") and not cls.int8_is_faster(manifest)
        return "fp32" if slow_int8 and "fp32" in manifest.graphs else default

    @classmethod
    def int8_is_faster(cls, manifest: Manifest) -> bool:
        """Whether this engine runs the bundle's INT8 faster than its fp32 on this machine, so that "auto" precision may
        choose it."""
        return True

    @classmethod
    def is_available(cls) -> bool:
        """Whether the engine's package is installed. A machine can still lack what the package needs."""
        return find_spec(cls.package) is not None

    @classmethod
    def version(cls) -> str | None:
        """Version of the engine's package, None where it is not installed."""
        try:
            return package_version(cls.package)
        except PackageNotFoundError:
            return None

    def run(self, image: npt.NDArray[np.uint8]) -> EngineOutput:
        """`run_batch` for one item: uint8 H×W×3 BGR."""
        return self.run_batch([image])[0]

    def run_batch(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        """Run the graph on up to `batch` items: network images, or frames where the graph takes these.

        Args:
            images: uint8 H×W×3 BGR of `input_hw`, any memory layout. They are not kept.

        Returns:
            Score and anomaly map of each. THE NEXT RUN MAY OVERWRITE THE MAPS: copy what must live longer.

        Raises:
            EngineError: the engine is closed, an item does not fit the graph, or the run failed.
        """
        if self._closed:
            raise EngineError(f"the engine {self.name} is closed", fix="open the Detector again")
        if not 1 <= len(images) <= self.batch:
            raise EngineError(f"{len(images)} items in one run", expected=f"1 to {self.batch}, the graph's batch")
        expected = (*self.input_hw, 3)
        for image in images:
            if image.dtype != np.uint8 or image.shape != expected:
                raise EngineError(
                    f"an image of dtype {image.dtype} and shape {image.shape}", expected=f"uint8 of shape {expected}"
                )
        return self._run(images)

    def run_all(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        """`run_batch` for any number of items, in as few runs as `batch` allows. No later run overwrites the maps.

        Raises:
            EngineError: as `run_batch`.
        """
        return [
            EngineOutput(output.score, output.anomaly_map.copy())
            for first in range(0, len(images), self.batch)
            for output in self.run_batch(images[first : first + self.batch])
        ]

    def close(self) -> None:
        """Free the graph and its buffers. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._unload()

    @abstractmethod
    def _load(self, graph: bytes, options: EngineOptions) -> Ports:
        """Load the graph and say what its inputs and outputs are."""

    @abstractmethod
    def _allocate(self) -> None:
        """Make the buffers of every later run, for `batch` items of `input_hw`."""

    @abstractmethod
    def _run(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        """Run on 1 to `batch` items that fit."""

    @abstractmethod
    def _unload(self) -> None: ...

    def _graph_error(self, action: str, error: Exception) -> EngineError:
        """An engine's own exception, reduced to the line that says something."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return EngineError(
            f"{self.name} {self.version()} cannot {action} the graph: {lines[-1] if lines else type(error).__name__}",
            fix="segrd-doctor shows whether the engine works at all; if it does, export the bundle again",
        )


class _Sizes(NamedTuple):
    input_name: str
    batch: int
    input_hw: tuple[int, int]
    size_hw: tuple[int, int]


def _read_ports(engine: str, ports: Ports) -> _Sizes:
    """What a graph's inputs and outputs say of it; refuses any graph but those of segrd-export."""
    name, item = next(iter(ports.inputs.items()), ("", Port("missing", ())))
    found = ports.outputs.get("anomaly_map", Port("missing", ()))
    if len(item.shape) == 4 and len(found.shape) == 3:
        batch, *input_hw = item.shape[:3]
        size_hw = found.shape[1:]
        wanted = Ports(
            {name: Port("uint8", (batch, *input_hw, 3))},
            {"score": Port("float32", (batch,)), "anomaly_map": Port("float32", (batch, *size_hw))},
        )
        named = name == "frame" or (name == "image" and size_hw == tuple(input_hw))
        if ports == wanted and named and min(batch, *input_hw, *size_hw) >= 1:
            return _Sizes(name, batch, (input_hw[0], input_hw[1]), (size_hw[0], size_hw[1]))
    raise EngineError(
        f"{engine}: the graph has inputs {_describe(ports.inputs)} and outputs {_describe(ports.outputs)}",
        expected="image uint8 [n, h, w, 3] or frame uint8 [n, H, W, 3] in, score float32 [n] and anomaly_map float32 "
        "[n, h, w] out",
        fix="export the model with segrd-export",
    )


def _describe(ports: dict[str, Port]) -> str:
    return ", ".join(f"{name} {port.dtype} {list(port.shape)}" for name, port in ports.items())
