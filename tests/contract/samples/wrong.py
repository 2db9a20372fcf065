"""Uses of TensorRT that some release or every release refuses: the contract test must find each, and nothing else.

`# no name: all` marks a name that no release has, `# no name: 11` one that went with TensorRT 11, and likewise
`# no type` marks a line that the type checker must refuse.
"""

from __future__ import annotations

import tensorrt as trt


def precision(config: trt.IBuilderConfig) -> None:
    config.set_flag(trt.BuilderFlag.FP16)  # no name: 11  # no type: 11
    config.set_flag(trt.BuilderFlag.FP61)  # no name: all  # no type: all
    config.int8_calibrator = trt.IInt8EntropyCalibrator2()  # no name: 11  # no type: 11


def misspelt(context: trt.IExecutionContext, stream: int) -> bool:
    context.set_input_shape("image", "1x3")  # no type: all
    context.set_tensor_adress("image", 0)  # no type: all
    return context.execute_async_v9(stream)  # no type: all


def too_new(reader: object) -> object:
    return trt.IStreamReaderV2  # no name: 10.3  # no type: 10.3


def switched() -> object:
    return getattr(trt.BuilderFlag, "EDITABLE_TIMING_CASH", None)  # no switch
