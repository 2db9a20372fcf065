"""Uses of TensorRT that fit every release: the contract test must find nothing here."""

from __future__ import annotations

import tensorrt as trt


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(msg)


def build(log: trt.ILogger, onnx: bytes) -> bytes:
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.clear_flag(trt.BuilderFlag.TF32)
    configure(config)
    return bytes(builder.build_serialized_network(network, config))


def configure(config: trt.IBuilderConfig) -> None:
    if hasattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE"):
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
    level = getattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY", None)
    if level is not None:
        config.hardware_compatibility_level = level


def shapes(engine: trt.ICudaEngine) -> list[tuple[int, ...]]:
    return [tuple(engine.get_tensor_shape(engine.get_tensor_name(i))) for i in range(engine.num_io_tensors)]


def run(context: trt.IExecutionContext, pointers: dict[str, int], stream: int) -> bool:
    addressed = [context.set_tensor_address(name, pointer) for name, pointer in pointers.items()]
    return all(addressed) and context.execute_async_v3(stream)
