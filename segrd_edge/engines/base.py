"""The one interface between a `Detector` and whatever executes its graph.

A deploy graph takes `image` (uint8 1×h×w×3 BGR, network size) and gives `score` (float32 [1]) and `anomaly_map`
(float32 1×h×w in [0, 1]). The public methods here hold every check; a subclass writes `_load`, `_run` and `_unload`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, OptionError


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
    """A deploy graph, loaded and ready to run. Not safe to call from several threads at once; the Detector locks.

    Args:
        graph: the serialised ONNX deploy graph.
        threads: processor threads of one run; None leaves the choice to the engine.

    Raises:
        EngineError: the package is missing, or the graph cannot be loaded or is not a deploy graph.
        OptionError: `threads` below 1.
    """

    name: ClassVar[str]
    package: ClassVar[str]  # the import name, which is also the distribution's name
    install: ClassVar[str]  # the command that installs it
    int8_is_faster: ClassVar[bool]  # whether "auto" precision may choose the INT8 graph on this engine

    def __init__(self, graph: bytes, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads={threads}", expected="at least 1, or None for the engine's own choice")
        if not self.is_available():
            raise EngineError(
                f"the engine {self.name} needs the package {self.package!r}, which is not installed",
                fix=self.install,
            )
        self._closed = False
        try:
            ports = self._load(graph, threads)
        except (ImportError, OSError) as error:  # installed, but a library that it needs is not
            raise EngineError(
                f"the engine {self.name} cannot be imported: {error}", fix=f"{self.install}; then segrd-doctor"
            ) from error
        self.size_hw = _network_size(self.name, ports)
        self._allocate()

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
        """Run the graph on one network image.

        Args:
            image: uint8 1×h×w×3 BGR of the graph's own size, any memory layout. It is not kept.

        Returns:
            Score and anomaly map. THE NEXT RUN MAY OVERWRITE THE MAP: copy what must live longer.

        Raises:
            EngineError: the engine is closed, the image does not fit the graph, or the run failed.
        """
        if self._closed:
            raise EngineError(f"the engine {self.name} is closed", fix="open the Detector again")
        expected = (1, *self.size_hw, 3)
        if image.dtype != np.uint8 or image.shape != expected:
            raise EngineError(
                f"an image of dtype {image.dtype} and shape {image.shape}", expected=f"uint8 of shape {expected}"
            )
        return self._run(image)

    def close(self) -> None:
        """Free the graph and its buffers. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._unload()

    @abstractmethod
    def _load(self, graph: bytes, threads: int | None) -> Ports:
        """Load the graph and say what its inputs and outputs are."""

    @abstractmethod
    def _allocate(self) -> None:
        """Make the buffers of every later run, for images of `size_hw`."""

    @abstractmethod
    def _run(self, image: npt.NDArray[np.uint8]) -> EngineOutput: ...

    @abstractmethod
    def _unload(self) -> None: ...

    def _graph_error(self, action: str, error: Exception) -> EngineError:
        """An engine's own exception, reduced to the line that says something."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return EngineError(
            f"{self.name} {self.version()} cannot {action} the graph: {lines[-1] if lines else type(error).__name__}",
            fix="segrd-doctor shows whether the engine works at all; if it does, export the bundle again",
        )


def _network_size(engine: str, ports: Ports) -> tuple[int, int]:
    """Height and width of a deploy graph's input; refuses any other graph."""
    image = ports.inputs.get("image", Port("missing", ()))
    height, width = image.shape[1:3] if len(image.shape) == 4 else (-1, -1)
    wanted = Ports(
        {"image": Port("uint8", (1, height, width, 3))},
        {"score": Port("float32", (1,)), "anomaly_map": Port("float32", (1, height, width))},
    )
    if ports != wanted or min(height, width) < 1:
        raise EngineError(
            f"{engine}: the graph has inputs {_describe(ports.inputs)} and outputs {_describe(ports.outputs)}",
            expected="a deploy graph: image uint8 [1, h, w, 3] in, score float32 [1] and anomaly_map float32 "
            "[1, h, w] out",
            fix="export the model with segrd-export",
        )
    return height, width


def _describe(ports: dict[str, Port]) -> str:
    return ", ".join(f"{name} {port.dtype} {list(port.shape)}" for name, port in ports.items())
