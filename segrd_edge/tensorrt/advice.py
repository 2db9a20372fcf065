"""What TensorRT's log lines mean, and what to do: one row per line that is known.

To add one, paste a real line into tests/tensorrt/test_advice.py and add a row whose pattern finds it. Patterns leave
out numbers and names; wording differs a little between releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .support import INSTALL_DRIVER

_REBUILD = "an engine belongs to the TensorRT version and GPU it was built with: build it again here from the bundle"
_EXPORT = "export the bundle again with segrd-export"


class Row(NamedTuple):
    pattern: str  # regular expression, searched without regard to case
    advice: str


TABLE: tuple[Row, ...] = (
    # Loading an engine.
    Row(r"version tag does not match", _REBUILD),
    Row(r"not compatible with this version of TensorRT, expecting library version", _REBUILD),
    Row(r"expecting compute \S+ got compute \S+, please rebuild", _REBUILD),
    Row(r"engine plan file across different models of devices is not recommended", _REBUILD),
    Row(r"in readHeader|magic ?tag does not match", "the file is no engine or cut short: build it again here"),
    # The machine.
    Row(r"cudaError 35\b|CUDA driver version is insufficient for CUDA runtime version", INSTALL_DRIVER),
    Row(r"cudaError 100\b|no CUDA-capable device", f"no GPU is visible: check nvidia-smi -L; {INSTALL_DRIVER}"),
    Row(
        r"libnvdla_compiler\.so",
        "TensorRT needs libnvdla_compiler.so from the Jetson's L4T: sudo apt install nvidia-l4t-dla-compiler, then "
        "sudo ldconfig; L4T R39 has none to lend to a container: use one made for this L4T release",
    ),
    Row(r"libcuda\.so|nvcuda\.dll", INSTALL_DRIVER),
    Row(
        r"Unable to load library: (lib)?nvinfer_lean",
        "a version-compatible engine needs TensorRT's lean runtime: pip install tensorrt-lean (TensorRT-RTX has none), "
        "or build without version_compatible",
    ),
    Row(
        r"libnvinfer|libnvonnxparser|nvinfer_\d+\.dll",
        "TensorRT's own libraries are missing or of another version than its Python package: install both from one "
        "source, pip's tensorrt or the system's python3-libnvinfer",
    ),
    Row(
        r"libcud(art|nn)|libcublas|libnvrtc",
        "a CUDA library is missing: install the CUDA that this TensorRT was made for, or use NVIDIA's container",
    ),
    # The graph.
    Row(
        r"antialiasing is not supported",
        "TensorRT has no antialiased Resize: export with the resize of segrd-edge, which is made of convolutions",
    ),
    Row(r"K exceeds the maximum value allowed", "TensorRT sorts at most 3840 values: export with a smaller top_pixels"),
    Row(
        r"Plugin not found|No importer registered for op",
        "TensorRT does not know this operator: write that part of the model with others (export.onnx.PLAIN_OPS)",
    ),
    Row(
        r"Non-zero zero point is not supported|shiftIsAllZeros",
        "TensorRT's INT8 is symmetric, with zero point 0: quantise with segrd-export --int8",
    ),
    Row(r"Failed to parse the ONNX model", f"the bytes are no ONNX model, or cut short: {_EXPORT}"),
    Row(
        r"dynamic or shape inputs, but no optimization profile",
        f"the graph has an input of variable size, and engines here have fixed sizes: {_EXPORT}",
    ),
    # The build.
    Row(
        r"no tactics to implement the operation within workspace limit|insufficient (memory|workspace)|"
        r"insuficient memory|do not have sufficient workspace memory",
        "raise workspace_bytes, or close what else uses the GPU's memory",
    ),
    Row(
        r"out of memory|OutOfMemory|Requested amount of GPU memory",
        "not enough GPU memory (on a Jetson also main memory): close other programs, set a smaller workspace_bytes, or "
        "build with the desktop stopped (sudo systemctl isolate multi-user.target)",
    ),
    Row(
        r"could not find any implementation for node",
        "the compiler has no kernel for this part, most often for lack of memory: free GPU memory or raise "
        "workspace_bytes; if that changes nothing, use the fp16 or fp32 graph of the bundle",
    ),
    Row(r"Build ?Cancell?ed", "the build was cancelled: run it again"),
)


def advise(lines: Iterable[str]) -> list[str]:
    """Advice for every known line, each once, in the lines' order. Of a line, the first row that fits counts."""
    found = (next((row.advice for row in TABLE if re.search(row.pattern, line, re.IGNORECASE)), None) for line in lines)
    return list(dict.fromkeys(advice for advice in found if advice is not None))
