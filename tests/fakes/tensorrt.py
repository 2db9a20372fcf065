"""In the place of `tensorrt` and `tensorrt_rtx`: builder, parser, runtime, engine and context, as far as our code goes.

A plan is the ONNX graph behind a header with a checksum. An engine runs it with ONNX Runtime.
"""

from __future__ import annotations

import enum
import hashlib
import json
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from .machine import CudaError, FakeGpu, Outputs

gpu = FakeGpu()  # another for each test, by `install`

__version__ = "11.4.0.106"
MAGIC = b"fake-plan"
ALIGNMENT = 256


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None: ...

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True

    def phase_finish(self, phase_name: str) -> None: ...


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0  # as in TensorRT 11; in 10 it is 1


class BuilderFlag(enum.IntEnum):
    TF32, VERSION_COMPATIBLE, EXCLUDE_LEAN_RUNTIME = range(3)


_COMPATIBLE = BuilderFlag.VERSION_COMPATIBLE


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(enum.IntEnum):
    ONELINE, JSON = range(2)


_DTYPES = {
    "tensor(float)": (DataType.FLOAT, np.dtype(np.float32)),
    "tensor(float16)": (DataType.HALF, np.dtype(np.float16)),
    "tensor(uint8)": (DataType.UINT8, np.dtype(np.uint8)),
}


def get_nv_onnx_parser_version() -> int:
    return 110400


class Dims:
    """A shape. It is a sequence, and no tuple."""

    def __init__(self, shape: Iterable[int]) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]


class IHostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content

    @property
    def nbytes(self) -> int:
        return len(self._content)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content or b"timings")


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.max_aux_streams = -1
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        self._flags: set[BuilderFlag] = {BuilderFlag.TF32}

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None: ...

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        return True


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._graph = b""


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return ""

    def node_operator(self) -> str:
        return ""


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            _session(bytes(model))
        except Exception as error:  # noqa: BLE001  (ONNX Runtime's own have no other base)
            self._errors.append(ParserError(f"Failed to parse the ONNX model: {error}"))
            return False
        self._network._graph = bytes(model)
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        gpu.counts["build"] += 1
        if not network._flags & 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED):
            gpu.misuse.append("a network that is not strongly typed")
        if gpu.faults.build:
            self._logger.log(ILogger.Severity.ERROR, gpu.faults.build)
            return None
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 1)
            if not monitor.step_complete("Building", 0):
                return None
            monitor.phase_finish("Building")
        compatible, without = (flag in config._flags for flag in (_COMPATIBLE, BuilderFlag.EXCLUDE_LEAN_RUNTIME))
        return IHostMemory(make_plan(network._graph, host_code=compatible and not without))


def make_plan(graph: bytes, *, host_code: bool = False, version: str | None = None) -> bytes:
    """What building a graph gives."""
    facts = {"version": version or __version__, "host_code": host_code, "gpu": gpu.name}
    body = json.dumps(facts).encode() + b"\n" + graph
    return MAGIC + hashlib.sha256(body).digest() + body


def _body(plan: bytes) -> bytes:
    """A plan without magic and digest, which may hold any byte, line ends included."""
    return plan[len(MAGIC) + hashlib.sha256().digest_size :]


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._gpu = gpu
        gpu.born("runtime")
        self._logger = logger
        self._engines: weakref.WeakSet[ICudaEngine] = weakref.WeakSet()
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        refusal = self._gpu.faults.deserialise or self._refusal(bytes(serialized_engine))
        if refusal:
            self._logger.log(ILogger.Severity.ERROR, refusal)
            return None
        engine = ICudaEngine(_body(bytes(serialized_engine)).partition(b"\n")[2], self._logger)
        self._engines.add(engine)
        return engine

    def _refusal(self, plan: bytes) -> str:
        body = _body(plan)
        if plan != MAGIC + hashlib.sha256(body).digest() + body:
            return "In readHeader at stdArchiveReader.cpp: magicTag does not match"
        facts = json.loads(body.partition(b"\n")[0])
        if facts["version"] != __version__:
            return "Version tag does not match. Note: Current Version: 228, Serialized Engine Version: 237"
        if facts["host_code"] and not self.engine_host_code_allowed:
            return "The plan holds host code, and engine_host_code_allowed is false"
        return ""

    def __del__(self) -> None:
        if hasattr(self, "_engines"):
            if len(self._engines):
                self._gpu.misuse.append("a runtime went before its engine")
            self._gpu.gone("runtime")


class ICudaEngine:
    def __init__(self, graph: bytes, logger: ILogger) -> None:
        self._session, self._logger = _session(graph), logger
        self._precision = precision_of(graph)
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        self._nodes = self._inputs | {node.name: node for node in self._session.get_outputs()}
        self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()
        self._gpu = gpu
        gpu.born("engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes)

    @property
    def num_optimization_profiles(self) -> int:
        return 1

    def get_tensor_name(self, index: int) -> str:
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _DTYPES[self._nodes[name].type][0]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(size if isinstance(size, int) else -1 for size in self._nodes[name].shape)

    def create_execution_context(self) -> IExecutionContext | None:
        self._gpu.require_context()
        if self._gpu.faults.create_context:
            self._logger.log(ILogger.Severity.ERROR, self._gpu.faults.create_context)
            return None
        context = IExecutionContext(self)
        self._contexts.add(context)
        return context

    def create_engine_inspector(self) -> EngineInspector | None:
        return EngineInspector()

    def __del__(self) -> None:
        if hasattr(self, "_contexts"):
            if len(self._contexts):
                self._gpu.misuse.append("an engine went before its execution context")
            self._gpu.gone("engine")


class EngineInspector:
    def get_engine_information(self, format: LayerInformationFormat) -> str:
        return '{"Layers": []}'


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = weakref.ref(engine)
        self._nodes, self._inputs, self._session = engine._nodes, engine._inputs, engine._session
        self._precision, self._logger = engine._precision, engine._logger
        self._addresses: dict[str, int] = {}
        self._is_running = False
        self._gpu = gpu
        gpu.born("execution_context")

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._nodes:
            self._logger.log(ILogger.Severity.ERROR, f"Given invalid tensor name: {name}.")
            return False
        self._gpu.counts["set_tensor_address"] += 1
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._gpu.counts["enqueue"] += 1
        refusal = self._refusal(self._gpu.counts["enqueue"])
        if refusal:
            self._logger.log(ILogger.Severity.ERROR, refusal)
            return False
        try:
            if self._gpu.faults.capture and self._gpu.stream(stream_handle).capturing is not None:
                self._gpu.synchronise(stream_handle)
            addresses, context, owner = dict(self._addresses), weakref.ref(self), self._gpu
            self._gpu.submit(stream_handle, lambda: _execute(owner, context, addresses))
        except CudaError as error:
            self._logger.log(ILogger.Severity.ERROR, f"Cuda Runtime ({error})")
            return False
        return True

    def _refusal(self, count: int) -> str:
        missing = [name for name in self._nodes if not self._addresses.get(name)]
        if missing:
            return f"Address is not set for tensor {missing[0]}. Call setTensorAddress before enqueue/execute."
        crooked = [name for name in self._nodes if self._addresses[name] % ALIGNMENT]
        if crooked:
            return f"The address of tensor {crooked[0]} is not aligned to {ALIGNMENT} bytes"
        return "Cuda Runtime (invalid argument)" if self._gpu.faults.enqueue(count) else ""

    def _run(self, addresses: dict[str, int]) -> None:
        """The work on the GPU."""
        if self._is_running:
            self._gpu.misuse.append("an execution context ran twice at once")
        self._is_running = True
        feeds = {name: _array(self._nodes[name], addresses[name]) for name in self._inputs}
        names = [name for name in self._nodes if name not in self._inputs]
        outputs: Outputs = dict(zip(names, self._session.run(names, feeds), strict=True))
        self._gpu.faults.outputs(outputs, self._precision)
        if self._gpu.in_replay:
            self._gpu.faults.replay(outputs)
        for name, values in outputs.items():
            _array(self._nodes[name], addresses[name])[...] = values
        self._gpu.now_ms += self._gpu.run_ms[self._precision]
        self._is_running = False

    def __del__(self) -> None:
        if hasattr(self, "_is_running"):
            self._gpu.gone("execution_context")


def _execute(owner: FakeGpu, reference: weakref.ref[IExecutionContext], addresses: dict[str, int]) -> None:
    context = reference()
    if context is None or context._engine() is None:
        owner.misuse.append("an engine or its context went while it had work to do")
    else:
        context._run(addresses)


def _array(node: Any, address: int) -> Any:
    dtype = _DTYPES[node.type][1]
    size = int(np.prod(node.shape)) * dtype.itemsize
    return gpu.at(address, size).view(dtype).reshape(node.shape)


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def precision_of(graph: bytes) -> str:
    """What a graph computes in, by the element types and the Q/DQ nodes in it."""
    import onnx

    model = onnx.load_from_string(graph)
    half = any(item.data_type == onnx.TensorProto.FLOAT16 for item in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT16
        for node in model.graph.node
        for attribute in node.attribute
    )
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "mixed" if half else "int8"
    return "fp16" if half else "fp32"
