from __future__ import annotations

from pathlib import Path

import pytest

from segrd_edge.benchmarks.latency import measure
from segrd_edge.benchmarks.latency_report import LatencyReport


@pytest.fixture(scope="session")
def report(bundle_path: Path) -> LatencyReport:
    """Every engine and precision of the test bundle, 6 rounds of 2 samples."""
    return measure(bundle_path, frame_hw=(96, 160), rounds=6, threads=1)
