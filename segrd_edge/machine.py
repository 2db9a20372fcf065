"""Facts of the machine that figures are written down with (processor, memory, versions), and its cache folder."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import EngineError

# What decides how fast a network runs on a processor, by the kernel's names.
_CPU_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "sve", "hypervisor"),
)


def cache_folder() -> Path:
    """Where engines and downloads are kept: $SEGRD_CACHE, or segrd-edge in the user's cache folder.

    Raises:
        EngineError: neither is known.
    """
    if chosen := os.environ.get("SEGRD_CACHE"):
        return Path(chosen)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # a container's user without an entry in /etc/passwd
        raise EngineError(
            "this user has no home folder, so there is no cache folder for engines and downloads",
            fix="set SEGRD_CACHE to a folder that this user can write",
        ) from error
    return base / "segrd-edge"


def cpu() -> dict[str, Any]:
    """Processor, cores, those flags that matter to a network; flags, clock and governor are None where unreadable."""
    fields = _key_values(Path("/proc/cpuinfo"))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "mhz": float(fields["cpu MHz"]) if "cpu MHz" in fields else None,
        "governor": read_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "flags": [flag for flag in _CPU_FLAGS if flag in flags] if flags else None,
    }


def power(root: Path = Path("/")) -> dict[str, str]:
    """What limits or raises the processor's clock: turbo, energy preference, platform profile, supply. Only what the
    system says; a virtual machine says nothing.

    Args:
        root: folder that stands for the file system's.
    """
    cpus = root / "sys/devices/system/cpu"
    found = {
        "turbo": _turbo(cpus),
        "energy preference": read_text(cpus / "cpu0/cpufreq/energy_performance_preference"),
        "platform profile": read_text(root / "sys/firmware/acpi/platform_profile"),
        "supply": _supply(root / "sys/class/power_supply"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _turbo(cpus: Path) -> str | None:
    """By Intel's driver, which says it the other way round, or by the others'."""
    states = {("intel_pstate/no_turbo", "1"): "off", ("intel_pstate/no_turbo", "0"): "on"}
    states |= {("cpufreq/boost", "0"): "off", ("cpufreq/boost", "1"): "on"}
    return next((state for (file, value), state in states.items() if read_text(cpus / file) == value), None)


def _supply(supplies: Path) -> str | None:
    """Mains or battery, of a machine that can tell them apart."""
    mains = [path for path in supplies.glob("*") if read_text(path / "type") == "Mains"]
    online = [read_text(path / "online") for path in mains]
    return None if not mains else "mains" if "1" in online else "battery"


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Main memory; None where the system does not say."""
    total = re.match(r"(\d+) kB", _key_values(Path("/proc/meminfo")).get("MemTotal", ""))
    return round(int(total[1]) / 2**20, 1) if total else None


def available_memory_bytes() -> int | None:
    """What programs may still take without swapping; None where the system does not say."""
    available = re.match(r"(\d+) kB", _key_values(Path("/proc/meminfo")).get("MemAvailable", ""))
    return int(available[1]) * 1024 if available else None


def package_version(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_text(path: Path) -> str | None:
    """The content of a small file of the system's, without NULs and blanks around it; None where there is none."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def output_of(*command: str, timeout_s: float = 10) -> str | None:
    """What a program prints; None where it is missing, fails, or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _key_values(path: Path) -> dict[str, str]:
    """`key : value` lines, the first of each key; empty where the file cannot be read (not Linux)."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in reversed(lines)]
    return {key.strip(): value.strip() for key, _, value in pairs}
