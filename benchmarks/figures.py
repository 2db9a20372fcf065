"""Figures of a latency report as people read them, the same in the terminal and on the page."""

from __future__ import annotations

from .contenders import STAGES
from .distribution import PERCENTILES
from .latency_report import QUIET_OTHER_CPU, ContenderLatency, LatencyReport

UNKNOWN = "–"


def ms(value: float | None) -> str:
    """Three significant figures, never fewer than the whole milliseconds: 0.012, 1.23, 12.3, 456."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{decimals}f}".replace("-", "−")


def size(size_hw: tuple[int, int]) -> str:
    """Width × height, as cameras state it and `--frame` takes it."""
    return f"{size_hw[1]}×{size_hw[0]}"


def latency(contender: ContenderLatency) -> dict[str, str]:
    """From a frame's bytes to the verdict: name → figure."""
    total = contender.total
    return {
        **{name: ms(total.percentile(name)) for name in PERCENTILES},
        "max": ms(total.max),
        "jitter": ms(total.jitter),
        "frames/s": f"{contender.throughput_fps:.1f}",
        "speed-up": UNKNOWN if contender.speedup is None else f"{contender.speedup:.2f}×",
    }


def stages(contender: ContenderLatency) -> dict[str, str]:
    """Where the time goes: name → figure."""
    return {
        **{stage: ms(contender.stages[stage].mean) for stage in STAGES},
        "bare engine": ms(contender.bare.mean),
        "over bare": ms(contender.overhead.over_bare),
        "less resize": ms(contender.overhead.without_resize),
        "outside engine": ms(contender.overhead.outside_engine),
    }


def costs(contender: ContenderLatency) -> dict[str, str]:
    """What it costs and how far it is from the reference: name → figure."""
    difference = contender.score_difference
    return {
        "CPU, ms": ms(contender.cpu_ms),
        "loading, ms": ms(contender.load_ms),
        "first frame, ms": ms(contender.first_ms),
        "memory, MiB": UNKNOWN if contender.rss_mib is None else f"{contender.rss_mib:.0f}",
        "Δscore, mean": UNKNOWN if difference is None else f"{difference.mean:.4f}",
        "Δscore, max": UNKNOWN if difference is None else f"{difference.max:.4f}",
        "verdicts changed": UNKNOWN if difference is None else f"{difference.verdicts_changed} of {difference.frames}",
    }


def headline(report: LatencyReport) -> str:
    """The answer in a sentence."""
    fastest = report.fastest
    median = ms(fastest.total.median)
    text = f"{fastest.name} is the fastest: {median} ms from the frame's bytes to the verdict (median)"
    if fastest.speedup is None or fastest.name == report.reference:
        return text + "."
    return f"{text}, {fastest.speedup:.2g} times as fast as {report.reference}."


def setting(report: LatencyReport) -> list[str]:
    """What was measured."""
    return [
        "frames of " + ", ".join(size(size_hw) for size_hw in report.frame_sizes_hw),
        f"network {size(report.network_hw)}",
        "threads by the engine's own choice" if report.threads is None else f"threads: {report.threads}",
        f"{report.samples} samples each in {report.rounds} interleaved rounds",
    ]


def warnings(report: LatencyReport) -> list[str]:
    """What keeps these figures from being the whole truth."""
    found = [f"{name} was not measured: {reason}" for name, reason in report.skipped.items()]
    if report.noisy_rounds:
        shares = [share for share in report.other_cpu if share is not None]
        found.append(
            f"Other programs took more than {QUIET_OTHER_CPU:.0%} of the processor in {report.noisy_rounds} of "
            f"{report.rounds} rounds ({max(shares):.0%} at worst): the tail is theirs as well. Measure again on a "
            "quiet machine."
        )
    if report.unknown:
        reasons = "; ".join(f"{name} {reason}" for name, reason in report.unknown.items())
        found.append(f"Not known: {reasons}. Take more with --rounds or --seconds.")
    changed = [c for c in report.contenders if c.score_difference and c.score_difference.verdicts_changed]
    for contender in changed:
        difference = contender.score_difference
        assert difference is not None
        found.append(
            f"{contender.name} judges {difference.verdicts_changed} of {difference.frames} frames otherwise than "
            f"{report.reference}."
        )
    return found
