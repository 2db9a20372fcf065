"""The releases of TensorRT whose real Python bindings our modules are held to, from JetPack 6 to today."""

from __future__ import annotations

from typing import NamedTuple


class Release(NamedTuple):
    """One release of the bindings.

    `distribution` and `version` name the wheel; `package` is what it installs, `module` what our code imports;
    `libraries` are the shared objects that the bindings link against.
    """

    name: str
    machines: str
    distribution: str
    version: str
    package: str
    module: str
    libraries: tuple[str, ...]


def _tensorrt(version: str, cuda: int, machines: str) -> Release:
    major = version.partition(".")[0]
    libraries = tuple(f"lib{name}.so.{major}" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"))
    return Release(
        f"tensorrt-{version}",
        machines,
        f"tensorrt-cu{cuda}-bindings",
        version,
        "tensorrt_bindings",
        "tensorrt",
        libraries,
    )


RELEASES = (
    _tensorrt("10.3.0", 12, "JetPack 6"),
    _tensorrt("10.13.3.9", 12, "JetPack 7.1"),
    _tensorrt("10.16.1.11", 12, "JetPack 7.2"),  # JetPack's own 10.16.2.10 has no wheel
    _tensorrt("11.4.0.106", 13, "PC with a GPU"),
    Release(
        "tensorrt-rtx-1.7.1.116",
        "PC with an RTX card",
        "tensorrt-rtx-cu13-bindings",
        "1.7.1.116",
        "tensorrt_rtx_bindings",
        "tensorrt_rtx",
        ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    ),
)


def _lean(version: str, cuda: int) -> Release:
    major = version.partition(".")[0]
    libraries = (f"libnvinfer_lean.so.{major}",)
    distribution = f"tensorrt-lean-cu{cuda}-bindings"
    return Release(
        f"tensorrt-lean-{version}",
        "PC with the lean runtime",
        distribution,
        version,
        "tensorrt_lean_bindings",
        "tensorrt_lean",
        libraries,
    )


# They have no builder, so only what runs plans is held to them.
LEAN_RELEASES = (_lean("10.3.0", 12), _lean("11.4.0.106", 13))
