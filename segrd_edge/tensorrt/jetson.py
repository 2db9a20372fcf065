"""What a Jetson says of itself: model, L4T and JetPack, power mode, clocks. All read, nothing set, no root needed."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..machine import output_of, read_text
from . import support
from .clocks import Clock, Finding, cpu_clock, gpu_clock

# Counters of the soctherm_oc driver. The third counts current peaks of microseconds, which are usual at full power.
_OVER_CURRENT = {"oc1": "too low a supply voltage", "oc2": "too high an average current"}
_BINARIES = ":/usr/sbin:/sbin"  # where nvpmodel is; not on every user's path


@dataclass(frozen=True)
class Jetson:
    """Facts of one Jetson; None and empty where it does not say."""

    model: str | None = None  # "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    l4t: support.Version | None = None  # (36, 4, 3)
    jetpack: str | None = None  # "6.2"
    power_mode: str | None = None  # "15W"
    power_modes: Mapping[str, int] = field(default_factory=dict)  # name → number
    gpu: Clock | None = None
    cpu: Clock | None = None
    over_current: Mapping[str, int] = field(default_factory=dict)  # events since the start: {"oc1": 0, …}

    @property
    def best_mode(self) -> str | None:
        """The power mode with the highest limits. It is not the highest number: on an Orin Nano Super it is 2 of 3."""
        return max(self.power_modes, key=_power, default=None)

    def warnings(self) -> list[Finding]:
        """What makes this Jetson slower, or its latency less steady, than it could be."""
        found = []
        best = self.best_mode
        if best and self.power_mode and _power(self.power_mode) < _power(best):
            found.append(
                Finding(
                    f"power mode {self.power_mode} is not the highest, which is {best}",
                    f"sudo nvpmodel -m {self.power_modes[best]}, where supply and cooling allow it",
                )
            )
        loose = [clock.name for clock in (self.gpu, self.cpu) if clock is not None and clock.is_locked is False]
        if loose:
            found.append(
                Finding(
                    f"the clocks of {' and '.join(loose)} are not locked: the first frame after a pause is slow",
                    "sudo jetson_clocks (after every start; a power mode alone does not lock them)",
                )
            )
        for counter, meaning in _OVER_CURRENT.items():
            if self.over_current.get(counter):
                found.append(
                    Finding(
                        f"slowed down {self.over_current[counter]} times since the start for {meaning}",
                        "a supply and a cable made for this power mode, or a lower mode",
                    )
                )
        return found


def read(root: Path = Path("/"), *, kernel: str | None = None) -> Jetson | None:
    """The Jetson that this is, or None where it is none. Nothing raises.

    Args:
        root: folder that stands for the file system's.
        kernel: release of the running kernel; None asks the system. In a container it is often the only sign of a
            Jetson, because the device tree is hidden there.
    """
    kernel = platform.release() if kernel is None else kernel
    model = read_text(root / "proc/device-tree/model")
    release = read_text(root / "etc/nv_tegra_release")
    if not (release or "Jetson" in (model or "") or kernel.endswith("-tegra")):
        return None
    l4t = _l4t(release)
    modes = _power_modes(root)
    return Jetson(
        model=model,
        l4t=l4t,
        jetpack=_jetpack(l4t),
        power_mode=_power_mode(root, modes),
        power_modes=modes,
        gpu=gpu_clock(root),
        cpu=cpu_clock(root),
        over_current=_over_current(root),
    )


def _l4t(release: str | None) -> support.Version | None:
    """From /etc/nv_tegra_release, "# R36 (release), REVISION: 4.3, GCID: …", or from the package that holds L4T."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    text = f"{found[1]}.{found[2]}" if found else _package_version("nvidia-l4t-core")
    return (support.parse_version(text) or None) if text else None


def _jetpack(l4t: support.Version | None) -> str | None:
    known = support.jetpack_of(l4t) if l4t else None
    return known or _package_version("nvidia-jetpack")


def _package_version(package: str) -> str | None:
    """Version of a Debian package without its build number: "36.4.3-20250107174145" is "36.4.3"."""
    text = output_of("dpkg-query", "--show", "--showformat=${Version}", package)
    return re.split(r"[-+]", text.strip())[0] or None if text else None


def _power_modes(root: Path) -> dict[str, int]:
    """From /etc/nvpmodel.conf: "< POWER_MODEL ID=2 NAME=MAXN_SUPER >"."""
    text = read_text(root / "etc/nvpmodel.conf") or ""
    return {
        name: int(number) for number, name in re.findall(r"^<\s*POWER_MODEL ID=(\d+) NAME=(\S+)", text, re.MULTILINE)
    }


def _power_mode(root: Path, modes: Mapping[str, int]) -> str | None:
    """From nvpmodel, or where it is missing from the file in which it keeps its number ("pmode:0002")."""
    program = shutil.which("nvpmodel") or shutil.which("nvpmodel", path=_BINARIES)
    asked = re.search(r"NV Power Mode: (\S+)", (output_of(program, "-q") or "") if program else "")
    if asked:
        return asked[1]
    kept = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    return next((name for name, number in modes.items() if kept and number == int(kept[1])), None)


def _power(mode: str) -> tuple[bool, bool, int]:
    """What a power mode allows, to compare: MAXN_SUPER is above MAXN, and MAXN above every number of watts."""
    watts = re.search(r"(\d+)W", mode)
    return "MAXN" in mode, "SUPER" in mode, int(watts[1]) if watts else 0


def _over_current(root: Path) -> dict[str, int]:
    counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    texts = {path.name.partition("_")[0]: read_text(path) or "" for path in counters}
    return {name: int(text) for name, text in texts.items() if text.isdecimal()}
