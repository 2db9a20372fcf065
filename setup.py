"""Maps the top-level folders to their import names.

`training/`, `calibration/`, `export/` and `benchmarks/` stand beside `segrd_edge/` so that the stations of the
pipeline are visible at a glance, and are installed inside it, so that nothing named `export` or `benchmarks` ever lands
at the top of a site-packages folder. Everything else is declared in pyproject.toml.
"""

from setuptools import find_namespace_packages, setup

STATIONS = ("training", "calibration", "export", "benchmarks")


def packages_in(folder: str) -> list[str]:
    """Folders below `folder`, those with data alone (templates, teachers) included."""
    return find_namespace_packages(folder, exclude=["*__pycache__*", "results*"])


packages = ["segrd_edge", *(f"segrd_edge.{name}" for name in packages_in("segrd_edge"))]
package_dir = {"segrd_edge": "segrd_edge"}
for station in STATIONS:
    package_dir[f"segrd_edge.{station}"] = station
    packages += [f"segrd_edge.{station}", *(f"segrd_edge.{station}.{name}" for name in packages_in(station))]

setup(packages=packages, package_dir=package_dir)
