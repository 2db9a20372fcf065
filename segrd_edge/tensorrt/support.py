"""Which TensorRT runs on which machine, as data: behind `segrd-doctor --support`, error messages, docs and images.

Sources: NVIDIA's support matrices and migration pages, its JetPack archive, and what users read off flashed devices.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]

# The least driver of a PC for each CUDA that a TensorRT is made for, by CUDA's major version. A Jetson's driver comes
# with its L4T and has numbers of its own.
LEAST_DRIVER = {12: "r535", 13: "r580"}
INSTALL_DRIVER = (
    f"install the NVIDIA driver, {LEAST_DRIVER[13]} or newer ({LEAST_DRIVER[12]} for CUDA 12; a Jetson's comes with "
    "JetPack); start a container with --gpus all, on a Jetson with --runtime nvidia"
)

# Compute capabilities. TensorRT: this one and all above; TensorRT-RTX: exactly these.
LEAST_CAPABILITY: Version = (7, 5)
RTX_CAPABILITIES = ("7.5", "8.6", "8.9", "12.0", "12.1")

# JetPack by L4T release, from NVIDIA's archive; 36.4.7 is 6.2.1 with security fixes.
_JETPACK: dict[Version, str] = {
    (36, 3, 0): "6.0",
    (36, 4, 0): "6.1",
    (36, 4, 3): "6.2",
    (36, 4, 4): "6.2.1",
    (36, 4, 7): "6.2.1",
    (36, 5, 0): "6.2.2",
    (36, 5, 2): "6.2.3",
    (38, 2, 0): "7.0",
    (38, 2, 1): "7.0",
    (38, 4, 0): "7.1",
    (39, 2, 0): "7.2",
    (39, 2, 1): "7.2.1",
}


@dataclass(frozen=True)
class Row:
    """One kind of machine and the TensorRT that runs there."""

    machine: str
    flavour: str  # as in `library.FLAVOURS`
    tensorrt: tuple[Version, Version]  # oldest and newest release that is known to run there
    cuda: str
    python: tuple[Version, Version]  # oldest and newest with bindings
    system: str
    driver: str
    l4t: tuple[Version, Version] | None = None  # from the first to below the second; None: no Jetson

    def has_tensorrt(self, version: str) -> bool:
        """Whether a release is within this row's, as far as the row names it: 10.3.0.30 is within 10.3."""
        found, (oldest, newest) = parse_version(version), self.tensorrt
        return oldest <= found[: len(oldest)] and found[: len(newest)] <= newest

    def has_python(self, version: str) -> bool:
        oldest, newest = self.python
        return oldest <= parse_version(version)[:2] <= newest

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of HEADINGS."""
        l4t = f"R{format_version(self.l4t[0])}+" if self.l4t else ""
        return (self.machine, l4t, _span(self.tensorrt), self.cuda, _span(self.python), self.system, self.driver)


HEADINGS = ("machine", "L4T", "TensorRT", "CUDA", "Python", "system", "driver")

_PC_SYSTEM = "Ubuntu 22.04+, Debian 12+, RHEL 8+, Windows"
TABLE: tuple[Row, ...] = (
    Row(
        machine="JetPack 6.1, 6.2 (Orin)",
        flavour="tensorrt",
        tensorrt=((10, 3), (10, 7)),
        cuda="12.6",
        python=((3, 10), (3, 10)),
        system="Ubuntu 22.04",
        driver="JetPack's",
        l4t=((36, 4), (37,)),
    ),
    Row(
        machine="JetPack 7.1 (Thor)",
        flavour="tensorrt",
        tensorrt=((10, 13), (10, 13)),
        cuda="13.0",
        python=((3, 12), (3, 12)),
        system="Ubuntu 24.04",
        driver="JetPack's",
        l4t=((38, 4), (39,)),
    ),
    Row(
        machine="JetPack 7.2 (Orin, Thor)",
        flavour="tensorrt",
        tensorrt=((10, 16), (10, 16)),
        cuda="13.2",
        python=((3, 12), (3, 12)),
        system="Ubuntu 24.04",
        driver="JetPack's",
        l4t=((39, 2), (40,)),
    ),
    Row(
        machine="JetPack 7.2.2 (AGX Orin, Thor), SBSA package",
        flavour="tensorrt",
        tensorrt=((11, 4), (11, 4)),
        cuda="13.4",
        python=((3, 10), (3, 14)),
        system="Ubuntu 24.04",
        driver="JetPack's",
        l4t=((39, 2, 2), (40,)),  # after 7.2 = R39.2.0 and 7.2.1 = R39.2.1
    ),
    Row(
        machine="PC, tensorrt-cu13",
        flavour="tensorrt",
        tensorrt=((10, 16), (11, 4)),
        cuda="13",
        python=((3, 10), (3, 14)),
        system=_PC_SYSTEM,
        driver="r580+",
    ),
    Row(
        machine="PC, tensorrt-cu12",
        flavour="tensorrt",
        tensorrt=((10, 3), (11, 4)),
        cuda="12",
        python=((3, 10), (3, 14)),
        system=_PC_SYSTEM,
        driver="r535+, Windows r537+",
    ),
    Row(
        machine="PC with an RTX card",
        flavour="tensorrt-rtx",
        tensorrt=((1, 7), (1, 7)),
        cuda="13",
        python=((3, 10), (3, 14)),
        system="Ubuntu 22.04+, Rocky 8.9+, Windows",
        driver="r580+",
    ),
)


def jetpack_of(l4t: Version) -> str | None:
    """The JetPack that an L4T release belongs to, None where the archive does not say."""
    return _JETPACK.get((*l4t, 0, 0)[:3])


def row_for(
    *, l4t: Version | None = None, tensorrt: str | None = None, cuda: int | None = None, flavour: str = "tensorrt"
) -> Row | None:
    """The row of the table that a machine belongs to, None where it belongs to none.

    Args:
        l4t: of a Jetson; None on a PC.
        tensorrt: the installed release, where there is one. It decides between rows that both fit, and never brings
            a machine out of the table: the row then says what should be there.
        cuda: major version of the CUDA that this TensorRT is made for (or, without one, that the driver supports).
    """
    if l4t is None:
        rows = [row for row in TABLE if row.l4t is None and row.flavour == flavour]
    else:
        rows = [row for row in TABLE if row.l4t is not None and row.l4t[0] <= l4t < row.l4t[1]]
        rows = [row for row in rows if row.flavour == flavour]
    fitting = [row for row in rows if tensorrt is not None and row.has_tensorrt(tensorrt)] or rows
    of_cuda = [row for row in fitting if cuda is not None and int(row.cuda.partition(".")[0]) == cuda]
    return next(iter(of_cuda or fitting), None)


def markdown() -> str:
    """The table as Markdown. Pages that show it hold this very text; tests/tensorrt/test_support.py compares."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(row.cells() for row in TABLE)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parse_version(text: str) -> Version:
    """The leading numbers of a version: "10.16.2.10" is (10, 16, 2, 10), "3.13.0rc1" is (3, 13, 0)."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def format_version(version: Version) -> str:
    return ".".join(map(str, version))


def _span(versions: tuple[Version, Version]) -> str:
    oldest, newest = map(format_version, versions)
    return oldest if oldest == newest else f"{oldest}–{newest}"
