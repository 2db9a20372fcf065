"""The errors of wrong.py where the source passes TensorRT around as Any, as ours does. Marks as there."""

from __future__ import annotations

from typing import Any


def _checked(result: Any) -> Any:
    return result


def build(trt: Any, logger: Any, graph: bytes) -> bytes:
    builder = _checked(trt.Builder(logger))
    network = _checked(builder.create_network(0))
    parser = trt.OnnxParser(network, logger)
    parser.parse_graph(graph)  # no type: all
    print([parser.get_error(i).descr() for i in range(parser.num_errors)])  # no type: all
    config = _checked(builder.create_builder_config())
    config.set_flag(trt.BuilderFlag.FP16)  # no name: 11  # no type: 11
    config.max_workspace_size = 1  # no type: all
    return bytes(builder.build_serialized_network(network, config))


class Run:
    def __init__(self, trt: Any, engine: Any) -> None:
        self._trt = trt
        self.context: Any = engine.create_execution_context()

    def __call__(self, stream: int) -> Any:
        self.context.set_tensor_address("image", "somewhere")  # no type: all
        return self.context.execute_async_v3(stream), self._trt.Loger  # no name: all  # no type: all
