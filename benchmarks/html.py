"""Latency reports as one self-contained page. Needs nothing but the standard library, so a line PC can write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from segrd_edge.files import replacing

from . import charts, figures
from .contenders import STAGES
from .latency_report import ContenderLatency, LatencyReport


def render_page(report: LatencyReport) -> str:
    """The page's HTML."""
    return fill(
        "latency.html",
        subject="latency",
        product=escape(report.product),
        facts=items([report.bundle, report.model, *figures.setting(report), f"{report.started:%Y-%m-%d %H:%M} UTC"]),
        headline=escape(figures.headline(report)),
        warnings=warning_list(figures.warnings(report)),
        latency_table=_table(report, figures.latency),
        stage_table=_table(report, figures.stages),
        cost_table=_table(report, figures.costs),
        stage_key="".join(f'<span><i class="key {stage}"></i>{stage}</span>' for stage in STAGES),
        stage_bars=charts.stage_bars(report.contenders),
        histograms="".join(_histogram(contender) for contender in report.contenders),
        environment=_environment(report),
        reference=escape(report.reference or "no contender: fp32 was not measured"),
        frames=escape(report.frames),
        frame_count=report.frame_count,
    )


def write_page(path: str | Path, page: str) -> None:
    """Write a page; a file of this name is replaced at once or not at all."""
    with replacing(Path(path)) as file:
        file.write(page.encode())


def fill(sections: str, *, subject: str, product: str, **values: Any) -> str:
    """A page of this package: templates/page.html around a template of sections; the values are HTML already.

    Args:
        subject: what the page is about, a few words for its title.
    """
    folder = files("segrd_edge.benchmarks").joinpath("templates")
    page, style, inner = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "latency.css", sections)
    )
    frame = {"style": style, "title": f"{product}: {subject}", "eyebrow": f"segrd-edge · {subject}", "product": product}
    return Template(page).substitute(frame, sections=Template(inner).substitute(values), **values)


def _table(report: LatencyReport, columns: Callable[[ContenderLatency], dict[str, str]]) -> str:
    return table({contender.name: columns(contender) for contender in report.contenders}, bold=report.fastest.name)


def table(rows: Mapping[str, Mapping[str, str]], bold: str = "") -> str:
    """A row per name, a column per figure; the row `bold` stands out."""
    head = "".join(f"<th>{escape(name)}</th>" for name in next(iter(rows.values())))
    lines = []
    for name, figures_of in rows.items():
        cells = "".join(f"<td>{escape(figure)}</td>" for figure in figures_of.values())
        mark = ' class="fastest"' if name == bold else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _histogram(contender: ContenderLatency) -> str:
    spread = contender.total.std
    note = f"{figures.ms(contender.total.min)} to {figures.ms(contender.total.max)} ms"
    note += "" if spread is None else f", std {figures.ms(spread)} ms"
    drawn = charts.histogram(contender.total, contender.name) + charts.sequence(contender.total, contender.name)
    return f"<figure><figcaption><b>{escape(contender.name)}</b> {note}</figcaption>{drawn}</figure>"


def warning_list(found: Sequence[str]) -> str:
    return f'<ul class="warnings">{items(found)}</ul>' if found else ""


def _environment(report: LatencyReport) -> str:
    versions = {contender.engine: contender.version for contender in report.contenders}
    rows = {
        **machine_rows({**report.environment, "load_average": report.load_average}),
        "engines": _pairs(versions),
        "noisy rounds": f"{report.noisy_rounds} of {report.rounds}",
        "measured in": f"{report.duration_s:.0f} s, loading included",
    }
    return facts_table(rows)


def facts_table(rows: Mapping[str, str]) -> str:
    """A row per fact."""
    cells = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows.items())
    return f'<table class="facts-table"><tbody>{"".join(cells)}</tbody></table>'


def machine_rows(found: Mapping[str, Any]) -> dict[str, str]:
    """What `environment.describe` found, with the load average before and after, as people read it."""
    cpu = found["cpu"]
    clock = "" if cpu["mhz"] is None else f", {cpu['mhz']:.0f} MHz when read"
    return {
        "processor": f"{cpu['model']}, {cpu['architecture']}{clock}",
        "cores": f"{cpu['usable_cores']} of {cpu['cores']} logical cores usable",
        "instructions": " ".join(cpu["flags"] or ()) or "unknown",
        "frequency governor": cpu["governor"] or "not readable",
        "power": _pairs(found["power"]) or "not readable",
        **{f"card {number}": _card(card) for number, card in enumerate(found["gpus"])},
        "memory": "unknown" if found["memory_gib"] is None else f"{found['memory_gib']} GiB",
        "system": found["os"],
        "Python, segrd-edge": f"{found['python']}, {found['segrd_edge']}",
        "packages": _pairs(found["packages"]),
        "OpenCV threads": str(found["opencv_threads"]),
        "environment variables": _pairs(found["variables"]) or "none that matter",
        "load average": "; ".join(
            f"{when}: {', '.join(map(str, loads))}" for when, loads in found["load_average"].items() if loads
        )
        or "unknown",
    }


def _card(card: Mapping[str, Any]) -> str:
    """One of `segrd_edge.tensorrt.smi.Card`, as far as the driver says."""
    facts = [card["name"] or "of no name"]
    if card["sm_mhz"] is not None:
        facts.append(f"{card['sm_mhz']} of {card['most_sm_mhz'] or 'unknown'} MHz when read")
    if card["power_limit_w"] is not None:
        facts.append(f"{card['power_limit_w']:g} W at most")
    if card["slowed_by"]:
        facts.append(f"slowed down by {' and '.join(card['slowed_by'])}")
    return ", ".join(facts)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def items(texts: Iterable[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)
