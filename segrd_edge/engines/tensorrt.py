"""TensorRT's flavours on an NVIDIA GPU: engines built from the graph on this machine, or loaded as plans."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from .. import cuda
from ..errors import EngineError
from ..tensorrt import driver, library, requirements
from ..tensorrt.layers import Layer, parse_information
from .base import DEFAULT_OPTIONS, Engine, EngineOptions, EngineOutput, Ports
from .tensorrt_runner import Runner

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Precision
    from ..tensorrt.progress import Progress

_logger = logging.getLogger("segrd_edge")


class TensorRtEngine(Engine):
    """Everything is allocated at the start; a run copies the items in, launches a CUDA graph and waits for it.

    Constructed from a graph, the engine is built where the cache has none (minutes); `open` also tests it on the
    bundle's golden images, and chooses the faster precision. It may be run and closed in any thread, one at a time.
    Maps are views of the engine's buffer: THE NEXT RUN OVERWRITES THEM.
    """

    name = "tensorrt"
    package = "tensorrt"
    install = library.FLAVOURS["tensorrt"].install
    precisions = ("fp16", "mixed", "fp32", "int8")

    def __init__(
        self,
        graph: bytes,
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        plan: bytes | None = None,
        host_code: bool = False,
    ) -> None:
        self._plan, self._host_code = plan, host_code
        self._runner: Runner | None = None
        requirements.require(self.name, options.device)  # says what is missing; the base class knows that something is
        cuda.open_device(options.device)
        try:
            super().__init__(graph, options)
        except BaseException:
            self._unload()
            raise

    @classmethod
    def from_plan(
        cls, plan: bytes, options: EngineOptions = DEFAULT_OPTIONS, *, host_code: bool = False
    ) -> TensorRtEngine:
        """The engine of a plan that was built before.

        Args:
            host_code: let the plan execute code of its own on the processor, as version-compatible plans do. Only for
                a plan whose checksum was compared with the one that its builder wrote.

        Raises:
            EngineError: TensorRT, pycuda, the driver or the GPU is missing; or the plan is damaged, of another version
                or GPU, or no engine of a graph of segrd-export's; or it does not run.
        """
        return cls(b"", options, plan=plan, host_code=host_code)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        precision: str = "auto",
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        progress: Progress | None = None,
    ) -> tuple[Engine, Precision]:
        """A tested engine for a bundle: from the cache, or built now. "auto" is the faster precision on this GPU.

        Raises:
            OptionError: the bundle has no graph of this precision.
            BundleError: the bundle is damaged.
            EngineError: TensorRT, pycuda, the driver or the GPU is missing; or no engine passes its self-test.
        """
        from ..tensorrt.choose import prepare

        choice = prepare(bundle, precision, flavour=cls.name, options=options, progress=progress)
        _logger.info("%s runs %s", cls.name, choice.reason)
        return choice.engine, choice.precision

    @classmethod
    def is_available(cls) -> bool:
        """Whether the packages are installed and this machine has a driver and a GPU for them."""
        installed = find_spec(cls.package) is not None and find_spec("pycuda") is not None
        return installed and requirements.lack(cls.name) is None

    @classmethod
    def version(cls) -> str | None:
        """Version of the package, None where it is not installed or does not say."""
        loaded = getattr(sys.modules.get(cls.package), "__version__", None)
        if loaded is not None:
            return str(loaded)
        package = requirements.installed_package(cls.name)
        return None if package is None else package.version

    @property
    def gpu(self) -> driver.Gpu:
        """The GPU that it runs on."""
        return self._running.device.gpu

    @property
    def memory(self) -> Literal["pinned", "mapped"]:
        """How items reach the GPU."""
        return self._running.memory

    @property
    def uses_cuda_graph(self) -> bool:
        return not self.no_graph_reason

    @property
    def no_graph_reason(self) -> str:
        """Why a run is no launch of a CUDA graph; "" where it is one."""
        return self._running.no_graph_reason

    def time_ms(self) -> float:
        """Milliseconds on the GPU of one run on the items of the last one: copies and kernels, without Python.

        Raises:
            EngineError: the engine is closed, or the run failed.
        """
        return self._running.time_ms()

    def layers(self) -> tuple[Layer, ...]:
        """What the compiler made of the graph's nodes, as the engine inspector tells; empty where it does not.

        Raises:
            EngineError: the engine is closed, or gives no inspector.
        """
        return parse_information(self._running.layer_information())

    @property
    def _running(self) -> Runner:
        if self._runner is None:
            raise EngineError(f"the engine {self.name} is closed", fix="open the Detector again")
        return self._runner

    def _load(self, graph: bytes, options: EngineOptions) -> Ports:
        plan = self._plan_of(graph, options) if self._plan is None else self._plan
        self._plan = None  # hundreds of megabytes, on a Jetson of the memory that the GPU has too
        runner = Runner(plan, self.name, options, host_code=self._host_code)
        self._runner = runner
        # Also where nobody calls close(): left to the garbage collector, objects would go in any order.
        self._finalise = weakref.finalize(self, runner.close)
        return runner.ports

    def _plan_of(self, graph: bytes, options: EngineOptions) -> bytes:
        from ..tensorrt.cache import EngineCache

        with cuda.open_device(options.device).current():
            return EngineCache().load_or_build(graph, flavour=self.name, device=options.device).plan

    def _allocate(self) -> None:
        self._running.start()

    def _run(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        runner = self._running
        for slot, image in zip(runner.items, images, strict=False):  # slots that are left keep what they had
            np.copyto(slot, image)
        runner.run()
        count = len(images)
        return [EngineOutput(float(s), m) for s, m in zip(runner.scores[:count], runner.maps[:count], strict=True)]

    def _unload(self) -> None:
        if self._runner is not None:
            self._runner = None
            self._finalise()


class TensorRtRtxEngine(TensorRtEngine):
    """TensorRT for RTX cards: builds in seconds, and builds without a GPU."""

    name = "tensorrt-rtx"
    package = "tensorrt_rtx"
    install = library.FLAVOURS["tensorrt-rtx"].install


class TensorRtLeanEngine(TensorRtEngine):
    """TensorRT's lean runtime, a tenth of the size of TensorRT: it runs version-compatible plans and builds nothing."""

    name = "tensorrt-lean"
    package = "tensorrt_lean"
    install = library.FLAVOURS["tensorrt-lean"].install
    is_automatic = False

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        precision: str = "auto",
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        progress: Progress | None = None,
    ) -> tuple[Engine, Precision]:
        """The engine that the bundle carries (`segrd-build --lean`), compared with this machine and self-tested.

        Raises:
            OptionError: the bundle carries none of this precision.
            BundleError: the bundle is damaged.
            EngineError: the bundle carries none at all, or one for another machine; the lean runtime, pycuda, the
                driver or the GPU is missing; or the self-test failed.
        """
        from ..tensorrt import lean

        return lean.open_engine(bundle, precision, options)

    def _plan_of(self, graph: bytes, options: EngineOptions) -> bytes:
        raise EngineError(
            f"a graph is no plan, and {self.name} builds none",
            fix="use the engine tensorrt, which builds one on this machine, or a bundle that carries an engine "
            "(segrd-build --lean)",
        )
