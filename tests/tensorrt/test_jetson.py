"""What is read off a Jetson, over folders with the files of one.

Not recorded by us on a device. The lines of /etc/nv_tegra_release, /etc/nvpmodel.conf and `nvpmodel -q`, the names of
the devfreq folders and the numbers in them are those that owners of these machines published; the folders around them
are put together after NVIDIA's documentation of the kernel's interfaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segrd_edge.tensorrt import jetson
from segrd_edge.tensorrt.clocks import Clock

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, DATE: Thu "
    "Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "etc/nvpmodel.conf": "< PARAM TYPE=CLOCK NAME=GPU >\nMAX_FREQ /sys/…\n< POWER_MODEL ID=0 NAME=15W >\n"
    "CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=3 NAME=7W >\n"
    "< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0001 fmode:fanNull",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "960000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "15\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
}
LOCKED = {
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
} | {
    f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_{name}_freq": "1728000\n"
    for policy in (0, 4)
    for name in ("cur", "min", "max")
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu "
    "Sep 25 22:47:11 UTC 2025\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n"
    "< POWER_MODEL ID=2 NAME=90W >\n",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/governor": "performance\n",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
}
AGX_MODES = "".join(
    f"< POWER_MODEL ID={number} NAME={name} >\n"
    for number, name in enumerate(("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"))
)
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Writes a machine's files and programs. No other program is found: the tests' machine may have some of them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(jetson, "_BINARIES", str(programs))
    shell = shutil.which("sh", path="/bin:/usr/bin")
    if shell is None:
        pytest.skip("the programs of these tests are shell scripts")

    def write(files: dict[str, str], **scripts: str) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, body in scripts.items():
            path = programs / name.replace("_", "-")
            path.write_text(f"#!{shell}\n{body}\n")
            path.chmod(0o755)
        return tmp_path / "root"

    return write


def test_orin_nano(machine: Machine) -> None:
    found = jetson.read(machine(ORIN_NANO), kernel="5.15.148-tegra")
    assert found is not None
    assert found.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found.l4t, found.jetpack) == ((36, 4, 7), "6.2.1")
    assert (found.power_mode, found.best_mode) == ("25W", "MAXN_SUPER")
    assert str(found.gpu) == "GPU 306 of 918 MHz (nvhost_podgov), not locked"
    assert found.cpu == Clock("CPU", 960, 730, 1344, "schedutil")  # the slower of two
    assert found.over_current == {"oc1": 0, "oc2": 15, "oc3": 37}
    mode, clocks, current = found.warnings()
    assert mode.what == "power mode 25W is not the highest, which is MAXN_SUPER"
    assert mode.fix.startswith("sudo nvpmodel -m 2,")
    assert "clocks of GPU and CPU are not locked" in clocks.what
    assert "sudo jetson_clocks" in clocks.fix
    assert current.what == "slowed down 15 times since the start for too high an average current"


def test_at_its_highest_there_is_nothing_to_say(machine: Machine) -> None:
    found = jetson.read(machine(ORIN_NANO | LOCKED), kernel="5.15.148-tegra")
    assert found is not None
    assert str(found.gpu) == "GPU 1020 of 1020 MHz (nvhost_podgov), locked"
    assert found.warnings() == []


def test_thor(machine: Machine) -> None:
    root = machine(THOR, nvpmodel='[ "$1" = -q ] && echo "NV Power Mode: 120W" && echo 1')
    found = jetson.read(root, kernel="6.8.12-tegra")
    assert found is not None
    assert (found.l4t, found.jetpack, found.power_mode) == ((38, 2, 2), None, "120W")
    assert found.gpu == Clock("GPU", 1575, None, None, "performance")
    assert [warning.fix for warning in found.warnings()] == ["sudo nvpmodel -m 0, where supply and cooling allow it"]


@pytest.mark.parametrize(
    ("modes", "best"),
    [
        (AGX_MODES, "MAXN"),
        (AGX_MODES.replace("MAXN", "MODE_60W"), "MODE_60W"),
        ("< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MAXN_SUPER >\n", "MAXN_SUPER"),
        ("", None),
    ],
)
def test_the_highest_power_mode(machine: Machine, modes: str, best: str | None) -> None:
    found = jetson.read(machine(THOR | {"etc/nvpmodel.conf": modes}), kernel="")
    assert found is not None
    assert found.best_mode == best


def test_where_the_release_file_is_missing_the_packages_say_it(machine: Machine) -> None:
    files = {"proc/device-tree/model": ORIN_NANO["proc/device-tree/model"]}
    versions = (
        'case "$3" in nvidia-l4t-core) echo 36.4.9-20260107174145;; nvidia-jetpack) echo 6.2.9+b77;; *) exit 1;; esac'
    )
    found = jetson.read(machine(files, dpkg_query=versions), kernel="")
    assert found is not None
    assert (found.l4t, found.jetpack) == ((36, 4, 9), "6.2.9")


def test_a_container_knows_a_jetson_by_its_kernel(machine: Machine) -> None:
    found = jetson.read(machine({"etc/hostname": "line"}), kernel="5.15.148-tegra")
    assert found == jetson.Jetson()
    assert found.warnings() == []


def test_a_pc_is_none(machine: Machine) -> None:
    assert jetson.read(machine({"etc/hostname": "line"}), kernel="6.8.0-45-generic") is None


@pytest.mark.parametrize("damaged", ["", "R36", "\0\0", "# R (release), REVISION: x"])
def test_damaged_files_and_failing_programs_raise_nothing(machine: Machine, damaged: str) -> None:
    files = dict.fromkeys(ORIN_NANO, damaged) | {"proc/device-tree/model": "NVIDIA Jetson"}
    found = jetson.read(machine(files, nvpmodel="exit 3", dpkg_query="echo; exit 0"), kernel="")
    assert found is not None
    assert (found.l4t, found.jetpack, found.power_mode, found.over_current) == (None, None, None, {})
    assert found.warnings() == []
