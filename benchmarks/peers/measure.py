"""Everyone in one interleaved run on the same frames; see `session` for why a turn is as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.preprocess import Preprocess

from .. import environment
from ..contenders import Pixels
from ..distribution import Distribution
from ..frames import FrameSet, golden_frames
from ..quantisers.latency import speedup
from ..session import turn_order
from .contenders import PEER_PRECISIONS, PEERS, Contender, EagerTorch, Floor, OwnDetector, Peer, Took
from .installation import Installed

SAMPLES_PER_ROUND = 2  # of each size
_UNTIMED_RUNS = 2
_FLOORS = ("openvino", "onnxruntime")

Load = Callable[[], Contender]


@dataclass
class Log:
    """A contender and what it took."""

    contender: Contender
    frames: list[Took] = field(default_factory=list)
    images: list[Took] = field(default_factory=list)

    def turn(self, frame: Pixels, image: Pixels, *, backwards: bool) -> None:
        """Two samples of each, in an order that adds a slow drift to both alike."""
        environment.wait_until_idle()
        for _ in range(_UNTIMED_RUNS):
            self.contender.run(frame)
        steps = [(frame, self.frames), (image, self.images)]
        if backwards:
            steps.reverse()
        for pixels, samples in [*steps, *reversed(steps)]:
            samples.append(self.contender.run(pixels))


def measure(
    paths: Sequence[Path],
    installed: Installed | None = None,
    *,
    run: Path | None = None,
    frame_hw: tuple[int, int],
    rounds: int,
    threads: int,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Everyone's latency, ready for JSON.

    Args:
        paths: bundles of one network size, without a crop; the first one's default precision is the reference.
        installed: where anomalib is; None leaves its models out.
        run: folder of a run of the same network size, whose model is measured in eager torch.
        frame_hw: height and width of the frames, which are made of the first bundle's golden images.
        rounds: how many turns each has, of two samples of each size.
        threads: processor threads of everyone's engine.

    Raises:
        BundleError: a bundle is damaged or foreign.
        EngineError: ours cannot run. Others that cannot are named in "failed".
        MissingExtraError: `run` without torch.
        OptionError: bundles or a run of different network sizes.
    """
    load_before = environment.load_average()
    bundles = [Bundle.open(path) for path in paths]
    size_hw = _network_size(bundles)
    frames = golden_frames(bundles[0], frame_hw)
    images = golden_frames(bundles[0], size_hw)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        _write_photos(frames, Path(name))
        loaders = _own(bundles, threads)
        if run is not None:
            loaders[f"{run} in eager torch"] = partial(EagerTorch, run, bundles[0], threads)
        loaders |= _floors(bundles[0], threads)
        if installed is not None:
            loaders |= _peers(installed, Path(name), size_hw, threads)
        logs, failed = load_all(loaders, stack, said)
        if logs[0].contender.kind != "own":
            raise EngineError(f"our own Detector cannot run: {'; '.join(failed.values())}")
        other_cpu = run_rounds(logs, frames.frames, images.frames, rounds, said)
    return {
        "date": date.today().isoformat(),
        "frames": {"source": frames.source, "count": len(frames.frames), "size_hw": list(frame_hw)},
        "network_hw": list(size_hw),
        "threads": threads,
        "rounds": rounds,
        "reference": _name(logs[0].contender),
        "contenders": [describe(log, logs) for log in logs],
        "failed": failed,
        "peers_have": {} if installed is None else installed.versions,
        "other_cpu": other_cpu,
        "load_average": {"before": load_before, "after": environment.load_average()},
        "environment": environment.describe(),
    }


def load_all(
    loaders: Mapping[str, Load], stack: ExitStack, said: Callable[[str], None]
) -> tuple[list[Log], dict[str, str]]:
    """Load everyone, one after the other; `stack` closes them. Who cannot is in the second result, with the reason."""
    logs, failed = [], {}
    for name, load in loaders.items():
        said(f"loading {name}")
        try:
            contender = load()
        except EngineError as error:
            said(f"{name} is left out: {error.what}")
            failed[name] = error.what
            continue
        stack.callback(contender.close)
        logs.append(Log(contender))
    return logs, failed


def run_rounds(
    logs: Sequence[Log], frames: Sequence[Pixels], images: Sequence[Pixels], rounds: int, said: Callable[[str], None]
) -> list[float | None]:
    """Everyone's turn in every round; the share of the processors that programs beside this one took, per round.

    What the peers' processes take is in that share too.
    """
    other, shares = environment.OtherCpu(), []
    for number in range(rounds):
        said(f"round {number + 1} of {rounds}")
        order, backwards = turn_order(len(logs), number)
        for index in order:
            logs[index].turn(frames[number % len(frames)], images[number % len(images)], backwards=backwards)
        shares.append(other.since_last())
    return shares


def describe(log: Log, logs: Sequence[Log]) -> dict[str, Any]:
    """A contender's figures: "ratio" is how many times as long as the first of `logs` it takes, "speedup" how many
    times as fast as eager torch it is, None where that was not measured."""
    contender = log.contender
    torch = next((other for other in logs if other.contender.kind == EagerTorch.kind), None)
    return {
        "name": contender.name,
        "kind": contender.kind,
        "precision": contender.precision,
        "version": contender.version,
        "samples": len(log.frames),
        "frame": _figures(log.frames, logs[0].frames, None if torch is None else torch.frames),
        "image": _figures(log.images, logs[0].images, None if torch is None else torch.images),
    }


def _figures(own: Sequence[Took], reference: Sequence[Took], torch: Sequence[Took] | None) -> dict[str, float | None]:
    durations = Distribution.of(took.ms for took in own)
    processor = Distribution.of(took.processor_ms for took in own)
    p90 = durations.percentile("p90")
    return {
        "median_ms": round(durations.median, 3),
        "p90_ms": None if p90 is None else round(p90, 3),
        "min_ms": round(durations.min, 3),
        "processor_ms": round(processor.median, 3),
        "ratio": _times(own, reference),
        "speedup": None if torch is None else _times(torch, own),
    }


def _times(long: Sequence[Took], short: Sequence[Took]) -> float:
    """By processor time: others that use the machine add to the clock, to some more than to others."""
    return round(
        speedup([took.processor_ms for took in long], [took.processor_ms for took in short], SAMPLES_PER_ROUND), 3
    )


def _network_size(bundles: Sequence[Bundle]) -> tuple[int, int]:
    sizes = [Preprocess.from_dict(bundle.manifest.preprocess).size_hw for bundle in bundles]
    if len(set(sizes)) > 1:
        found = ", ".join(f"{bundle.path} {size}" for bundle, size in zip(bundles, sizes, strict=True))
        raise OptionError(f"bundles of different network sizes (height, width): {found}", expected="one size for all")
    return sizes[0]


def _write_photos(frames: FrameSet, folder: Path) -> None:
    """For the peers' INT8, which calibrates on a folder of photographs."""
    (folder / "good").mkdir()
    for number, frame in enumerate(frames.frames):
        cv2.imwrite(str(folder / "good" / f"{number}.png"), frame)


def _own(bundles: Sequence[Bundle], threads: int) -> dict[str, Load]:
    """Our Detectors, the reference first."""
    engine = engines.processor_engine()
    loaders: dict[str, Load] = {}
    for bundle in bundles:
        default = bundle.manifest.default_precision
        for precision in sorted(bundle.manifest.graphs, key=lambda name: name != default):
            if precision in engines.engine_class(engine).precisions:
                load = partial(OwnDetector, bundle, engine, precision, threads)
                loaders[f"our {bundle.path.stem} {precision}"] = load
    return loaders


def _floors(bundle: Bundle, threads: int) -> dict[str, Load]:
    preprocess = Preprocess.from_dict(bundle.manifest.preprocess)
    return {
        f"plain {engine} {precision}": partial(Floor, engine, bundle.graph(precision), precision, preprocess, threads)
        for engine in _FLOORS
        if engines.engine_class(engine).is_available()
        for precision in bundle.manifest.graphs
        if precision in PEER_PRECISIONS
    }


def _peers(installed: Installed, photos: Path, size_hw: tuple[int, int], threads: int) -> dict[str, Load]:
    return {
        f"anomalib {PEERS[key]} {precision}": partial(Peer, key, precision, installed, photos, size_hw, threads)
        for key in PEERS
        for precision in PEER_PRECISIONS
    }


def _name(contender: Contender) -> str:
    return f"{contender.name} {contender.precision}"
