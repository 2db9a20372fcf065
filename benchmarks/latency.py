"""Latency from a frame's bytes to the verdict, of everything that this installation can run a bundle with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter

from segrd_edge.bundle import Bundle
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.preprocess import Preprocess

from . import environment
from .contenders import Contender, DetectorContender, TorchContender, choose
from .frames import choose_frames
from .latency_report import LatencyReport
from .session import ContenderLog, Session, check_seconds

__all__ = ["DEFAULT_SECONDS", "MIN_ROUNDS", "LatencyReport", "measure"]

DEFAULT_SECONDS = 12.0
MIN_ROUNDS = 2


def measure(
    bundle: str | Path | Bundle,
    *,
    frame_hw: tuple[int, int] | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    frames: str | Path | None = None,
    run: str | Path | None = None,
) -> LatencyReport:
    """Measure every engine × precision on this machine, from a frame's bytes to the verdict.

    Args:
        bundle: a `.segrd` file, or an opened `Bundle`.
        frame_hw: height and width of the frames; None is the size of the images in `frames`, or 1024×1024, or what the
            crop needs where that is more.
        rounds: how many turns each contender has, each of two samples; at least 2, and 50 to know p99.
        seconds: go on for about this long instead; 12 where neither is given.
        threads: processor threads of an engine; None is the engine's own choice.
        engines: names; None is every engine that is installed.
        precisions: names; None is every precision of the bundle.
        frames: folder of frames; None makes them of the bundle's golden images.
        run: folder of the run that was exported, to measure the eager torch model too (needs the [train] extra).

    Raises:
        BundleError: the bundle is damaged or foreign.
        EngineError: a named engine is missing, or none of them can run the bundle.
        OptionError: an argument that cannot work.
        DataError, FrameError: `frames` holds no usable images.
    """
    started, start = datetime.now(timezone.utc), perf_counter()
    load_before = environment.load_average()
    _check_turns(rounds, seconds)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    loaders = _loaders(bundle, engines, precisions, threads, run)
    preprocess = Preprocess.from_dict(bundle.manifest.preprocess)
    frame_set = choose_frames(bundle, frames, frame_hw)
    with ExitStack() as stack:
        session = Session(frame_set.frames)
        skipped = load_all(session, loaders, stack)
        session.run(_round_numbers(rounds, seconds))
    reference = _reference(session.logs)
    return LatencyReport(
        bundle=bundle.path.name,
        product=bundle.manifest.product,
        model=bundle.manifest.model.name,
        network_hw=preprocess.size_hw,
        frames=frame_set.source,
        frame_sizes_hw=frame_set.sizes_hw,
        frame_count=len(frame_set.frames),
        rounds=len(session.other_cpu),
        threads=threads,
        reference=None if reference is None else reference.name,
        contenders=[log.summarise(reference) for log in session.logs],
        skipped=skipped,
        other_cpu=session.other_cpu,
        environment=environment.describe(),
        load_average={"before": load_before, "after": environment.load_average()},
        started=started,
        duration_s=perf_counter() - start,
    )


def _check_turns(rounds: int | None, seconds: float | None) -> None:
    if rounds is not None and seconds is not None:
        raise OptionError(f"rounds={rounds} and seconds={seconds:g}", expected="one of the two")
    if rounds is not None and rounds < MIN_ROUNDS:
        raise OptionError(f"rounds={rounds}", expected=f"at least {MIN_ROUNDS}; 50 to know p99")
    check_seconds(seconds)


def _round_numbers(rounds: int | None, seconds: float | None) -> Iterator[int]:
    """0, 1, 2, ... for so many rounds, or until the time is over; the time starts with the first."""
    deadline = perf_counter() + (seconds or DEFAULT_SECONDS)
    for number in count():
        over = perf_counter() >= deadline and number >= MIN_ROUNDS if rounds is None else number >= rounds
        if over:
            return
        yield number


def _loaders(
    bundle: Bundle,
    engines: Sequence[str] | None,
    precisions: Sequence[str] | None,
    threads: int | None,
    run: str | Path | None,
) -> dict[str, Callable[[], Contender]]:
    """Contender → what loads it."""
    loaders: dict[str, Callable[[], Contender]] = {}
    if run is not None:
        loaders["torch fp32"] = partial(TorchContender, run, bundle, threads)
    for engine, precision in choose(bundle, engines, precisions):
        loaders[f"{engine} {precision}"] = partial(DetectorContender, bundle, engine, precision, threads)
    return loaders


def load_all(session: Session, loaders: Mapping[str, Callable[[], Contender]], stack: ExitStack) -> dict[str, str]:
    """Load every contender into the session; `stack` closes them. Returns those that failed, and why.

    Raises:
        EngineError: none could be loaded.
    """
    skipped = {}
    for name, load in loaders.items():
        try:
            stack.callback(session.add(load).close)
        except EngineError as error:  # noqa: PERF203  (one that fails must not end the others)
            skipped[name] = error.what
    if not session.logs:
        problems = "; ".join(f"{name}: {problem}" for name, problem in skipped.items())
        raise EngineError(f"no engine can run this bundle: {problems}", fix="segrd-doctor shows which engines work")
    return skipped


def _reference(logs: Sequence[ContenderLog]) -> ContenderLog | None:
    """The first fp32 contender: torch where it was measured, else the first engine."""
    return next((log for log in logs if log.contender.precision == "fp32"), None)
