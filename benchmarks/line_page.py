"""A `LineReport` as a table of the terminal and as one self-contained page."""

from __future__ import annotations

from html import escape

from . import charts, figures
from .distribution import PERCENTILES, Distribution
from .html import facts_table, fill, items, machine_rows, table, warning_list
from .latency_report import QUIET_OTHER_CPU
from .line import LineReport


def headline(report: LineReport) -> str:
    """Whether the line has to wait, in a sentence."""
    frames, misses = report.latency.samples_ms.size, report.misses
    deadline = f"{report.deadline_ms:g} ms"
    worst = f"the slowest took {figures.ms(report.latency.max)} ms"
    if not misses:
        return f"Every one of {frames} verdicts came within {deadline}; {worst}."
    row = f", {report.misses_in_a_row} of them in a row" if report.misses_in_a_row > 1 else ""
    return f"{misses} of {frames} verdicts came later than {deadline}{row}; {worst}."


def setting(report: LineReport) -> list[str]:
    """What was measured."""
    return [
        report.name,
        "frames of " + ", ".join(map(figures.size, report.frame_sizes_hw)),
        f"network {figures.size(report.network_hw)}",
        f"{report.latency.samples_ms.size} arrivals: {report.arrivals.source}",
        "threads by the engine's own choice" if report.threads is None else f"threads: {report.threads}",
        *([] if report.keep_warm_ms is None else [f"kept warm after {report.keep_warm_ms:g} ms"]),
    ]


def rows(report: LineReport) -> dict[str, dict[str, str]]:
    """Latency, waiting and every stage: name → figure → text."""
    return {
        "latency": _figures(report.latency),
        "waiting": _figures(report.waiting),
        **{stage: _figures(durations) for stage, durations in report.stages.items()},
    }


def resources(report: LineReport) -> dict[str, str]:
    """What a frame takes of the machine, and what else ran on it."""
    return {
        "CPU per frame": f"{figures.ms(report.cpu_ms)} ms",
        "memory": ", ".join(f"{when} {_mib(mib)}" for when, mib in report.rss_mib.items()),
        "other programs": "unknown" if report.other_cpu is None else f"{report.other_cpu:.0%} of the processor",
    }


def warnings(report: LineReport) -> list[str]:
    """What keeps these figures from being the whole truth."""
    found = []
    if report.is_noisy:
        found.append(
            f"Other programs took {report.other_cpu:.0%} of the processor, more than {QUIET_OTHER_CPU:.0%}: the tail "
            "is theirs as well. Measure again on a quiet machine."
        )
    if report.latency.unknown:
        reasons = "; ".join(f"{name} {reason}" for name, reason in report.latency.unknown.items())
        found.append(f"Not known: {reasons}. Let more frames arrive, with --seconds or a longer --trace.")
    return found


def render_line_page(report: LineReport) -> str:
    """The page's HTML."""
    return fill(
        "line.html",
        subject="latency on a line",
        product=escape(report.product),
        facts=items([report.bundle, *setting(report), f"{report.started:%Y-%m-%d %H:%M} UTC"]),
        headline=escape(headline(report)),
        warnings=warning_list(warnings(report)),
        table=table(rows(report)),
        timeline=charts.timeline(
            report.arrivals.times_ms.tolist(), report.latency.samples_ms.tolist(), report.deadline_ms
        ),
        histogram=f'<figure style="max-width: 480px">{charts.histogram(report.latency, report.name)}</figure>',
        environment=facts_table(
            {
                **machine_rows(report.environment),
                "engine": f"{report.engine} {report.engine_version}",
                **resources(report),
                "measured in": f"{report.duration_s:.0f} s",
            }
        ),
    )


def _figures(durations: Distribution) -> dict[str, str]:
    return {
        **{name: figures.ms(durations.percentile(name)) for name in PERCENTILES},
        "max": figures.ms(durations.max),
        "mean": figures.ms(durations.mean),
        "jitter": figures.ms(durations.jitter),
        "std": figures.ms(durations.std),
    }


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MiB"
