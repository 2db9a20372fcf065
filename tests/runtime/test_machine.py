"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from segrd_edge import machine

CPUS = "sys/devices/system/cpu"
MAINS, BATTERY = "sys/class/power_supply/AC", "sys/class/power_supply/BAT0"
ON_BATTERY = {f"{MAINS}/type": "Mains", f"{MAINS}/online": "0", f"{BATTERY}/type": "Battery"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({f"{CPUS}/intel_pstate/no_turbo": "1"}, {"turbo": "off"}),
        ({f"{CPUS}/intel_pstate/no_turbo": "0"}, {"turbo": "on"}),
        ({f"{CPUS}/cpufreq/boost": "0"}, {"turbo": "off"}),
        ({f"{CPUS}/cpufreq/boost": "1"}, {"turbo": "on"}),
        ({f"{CPUS}/cpu0/cpufreq/energy_performance_preference": "power"}, {"energy preference": "power"}),
        ({"sys/firmware/acpi/platform_profile": "low-power"}, {"platform profile": "low-power"}),
        (ON_BATTERY, {"supply": "battery"}),
        (ON_BATTERY | {f"{MAINS}/online": "1"}, {"supply": "mains"}),
        ({f"{BATTERY}/type": "Battery"}, {}),  # a supply that could be told apart from it is not known
    ],
)
def test_what_limits_the_clock(tmp_path: Path, files: dict[str, str], expected: dict[str, str]) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert machine.power(tmp_path) == expected
