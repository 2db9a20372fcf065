"""Real lines: from issues about each release, or provoked from TensorRT-RTX 1.7, as test_build.py does again."""

from __future__ import annotations

import re

import pytest

from segrd_edge.tensorrt.advice import TABLE, advise

LINES = {
    "Version tag does not match. Note: Current Version: 228, Serialized Engine Version: 237": "build it again here",
    "The engine plan file is not compatible with this version of TensorRT, expecting library version 8.2.3 got 8.2.1, "
    "please rebuild.": "build it again here",
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
    "incompatible device, expecting compute 8.9 got compute 8.6, please rebuild.)": "build it again here",
    "Using an engine plan file across different models of devices is not recommended and is likely to affect "
    "performance or even cause errors.": "build it again here",
    "[runtime.cpp::readHeader::765] Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.  In "
    "readHeader at /_src/runtime/dispatch/runtime.cpp:765)": "cut short",
    "Error reading CUDA GPU properties: In getCurrentCC at /_src/runtime/dispatch/planHeaders.cpp:130 (cudaError 35: "
    "CUDA driver version is insufficient for CUDA runtime version) Ensure that the GPU driver is installed": "r580",
    "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent at "
    "/_src/runtime/core/cudaDeviceProfile.cpp:221 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
    "version))": "r580",
    "libnvdla_compiler.so: cannot open shared object file: No such file or directory": "L4T",
    "libcuda.so.1: cannot open shared object file: No such file or directory": "driver",
    "libnvinfer.so.10: cannot open shared object file: No such file or directory": "own libraries",
    "libcudart.so.12: cannot open shared object file: No such file or directory": "CUDA library",
    "IBuilder::buildSerializedNetwork: Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.1: "
    "libnvinfer_lean.so.1: cannot open shared object file: No such file or directory In Impl at "
    "/_src/runtime/dispatch/libLoader.cpp:305)": "tensorrt-lean",
    '(antialias == 0) && "Antialiasing is not supported currently."': "antialiased Resize",
    "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (ITopKLayer topk: topk: K exceeds the maximum "
    "value allowed (3840). In processCheck at /_src/optimizer/shapeof/graphShapeAnalyzer.cpp:1066 In analyzeShapes at "
    "/_src/optimizer/shapeof/graphShapeAnalyzer.cpp:2825)": "3840",
    'creator && "Plugin not found, are the plugin name, version, and namespace correct?"': "operator",
    "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported. Please set "
    "kENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA to enable asymmetric quantization if it is on DLA.": "symmetric",
    "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX model.": "cut short",
    "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
    "optimization profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)": "variable size",
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic Selection: no "
    "tactics to implement the operation within workspace limit.": "workspace_bytes",
    "Skipping tactic 0 due to insuficient memory on requested size of 29147520 detected for tactic 0.": "workspace",
    "Cuda Error in nvinfer1::internal::DefaultAllocator::allocate: 2 (out of memory)": "not enough GPU memory",
    "[optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[onnx::Gather_72...ScatterND_170]}.)": "no kernel",
    "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by user In next at "
    "/_src/optimizer/common/scopedProgressReporter.cpp:92)": "cancelled",
}


@pytest.mark.parametrize(("line", "says"), LINES.items())
def test_a_real_line_has_advice(line: str, says: str) -> None:
    (advice,) = advise([line])
    assert says in advice


def test_an_unknown_line_has_none() -> None:
    assert advise(["Total Weights Memory: 37288 bytes", ""]) == []


def test_advice_comes_once_in_the_order_of_the_lines() -> None:
    two_drivers = ["cudaError 35: CUDA driver version is insufficient", "libcuda.so.1: cannot open shared object file"]
    assert len(advise(two_drivers)) == 1
    k, parse = "K exceeds the maximum value allowed (3840)", "Failed to parse the ONNX model."
    assert advise([k, parse]) == advise([parse, k])[::-1] != []


def test_every_row_is_reached_by_a_real_line_or_is_listed_here() -> None:
    """A row that no line above reaches is a guess; these are known from the documentation, without a whole line."""
    guesses = {r"cudaError 100\b|no CUDA-capable device"}
    reached = {next(row for row in TABLE if re.search(row.pattern, line, re.IGNORECASE)) for line in LINES}
    assert {row.pattern for row in TABLE} - {row.pattern for row in reached} == guesses
