"""The tables of `segrd-doctor`: a report as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from .console import new_table

_INT8_FLAGS = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "asimddp": "SDOT",
    "i8mm": "I8MM",
}
_MARKS = {"works": "[green]yes[/]", "would work": "[yellow]would[/]", "no": "[red]no[/]"}


def tables(report: dict[str, Any], *, with_support: bool) -> list[Table]:
    """Tables of what `doctor.examine` or `doctor.examine_engine` found.

    Args:
        with_support: also show which TensorRT runs on which machine; a machine with an NVIDIA GPU shows it anyway.
    """
    nvidia = report.get("nvidia")
    if nvidia is None:
        return [_engines(report)]
    found = [_machine(report), _nvidia(nvidia), _engines(report), _extras(report["extras"])]
    if report["warnings"]:
        found.append(_warnings(report["warnings"]))
    if with_support or nvidia["gpus"] or nvidia["jetson"]:
        found.append(_support(nvidia["support"]))
    return found


def _machine(report: dict[str, Any]) -> Table:
    cpu, flags, memory = report["cpu"], report["cpu"]["flags"], report["memory_gib"]
    rows = [
        ("segrd-edge", report["segrd_edge"]),
        ("Python", report["python"]),
        ("system", report["os"]),
        ("processor", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} logical cores usable"),
        ("INT8 arithmetic", "unknown" if flags is None else _listed(flags)),
        ("memory", "unknown" if memory is None else f"{memory} GiB"),
    ]
    if cpu["governor"]:
        rows.insert(-1, ("clock governor", cpu["governor"]))
    return _facts("Machine", rows)


def _nvidia(nvidia: dict[str, Any]) -> Table:
    return _facts("NVIDIA", [*_gpus(nvidia), *_jetson(nvidia["jetson"]), *_cards(nvidia), *_software(nvidia)])


def _gpus(nvidia: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for gpu in nvidia["gpus"]:
        yield "GPU", f"{gpu['name']}, compute capability {gpu['compute_capability']}"
    for gpu in nvidia["gpus"][:1]:
        of_cards = [card["driver"] for card in nvidia["cards"] if card["driver"]]
        yield "driver", next(filter(None, [gpu["driver"], *of_cards]), "its version is not shown here")
        yield "CUDA", f"{gpu['cuda_version']} (the newest that the driver supports)"
    if not nvidia["gpus"]:
        yield "driver", _with_fix(nvidia["driver"])


def _jetson(jetson: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if jetson is None:
        return
    yield "Jetson", jetson["model"] or "a model that is not shown here"
    l4t = f"L4T R{jetson['l4t']}" if jetson["l4t"] else "L4T unknown"
    yield "JetPack", f"{jetson['jetpack'] or 'unknown'} ({l4t})"
    if jetson["power_mode"]:
        others = ", ".join(jetson["power_modes"])
        yield "power mode", jetson["power_mode"] + (f" (of {others})" if others else "")
    clocks = [text for text in jetson["clocks"].values() if text]
    if clocks:
        yield "clocks", "\n".join(clocks)


def _cards(nvidia: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for card in nvidia["cards"]:
        clock = f"{card['sm_mhz']} of {card['most_sm_mhz']} MHz" if card["sm_mhz"] is not None else ""
        power = f"up to {card['power_limit_w']:g} W" if card["power_limit_w"] is not None else ""
        slowed = f"slowed down by {' and '.join(card['slowed_by'])}" if card["slowed_by"] else ""
        known = [text for text in (clock, power, slowed) if text]
        if known:
            yield "clock and power", ", ".join(known)


def _software(nvidia: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, flavour in nvidia["tensorrt"].items():
        cuda = f", made for CUDA {flavour['cuda']}" if flavour["cuda"] else ""
        version = flavour["version"] or "of unknown version"
        yield name, f"{version}{cuda}" if flavour["works"] else _with_fix(flavour)
    if not nvidia["tensorrt"]:
        yield "TensorRT", "not installed"
    for name, package in nvidia["cuda_packages"].items():
        yield name, package["version"] or "yes" if package["works"] else _with_fix(package)
    cache = nvidia["cache"]
    if cache["engines"] or (nvidia["gpus"] and cache["engines"] is not None):
        count = "1 engine" if cache["engines"] == 1 else f"{cache['engines']} engines"
        yield "engine cache", f"{count}, {cache['mib']:g} MiB in {cache['folder']}"


def _engines(report: dict[str, Any]) -> Table:
    table = new_table("Engines", "", "version", "works", "")
    table.columns[3].justify = "left"
    driver = report.get("nvidia", {}).get("driver", {}).get("detail")
    for name, engine in report["engines"].items():
        text = "needs an NVIDIA driver, see above" if driver and engine["detail"] == driver else _with_fix(engine)
        table.add_row(name, engine["version"] or "–", _MARKS[engine["state"]], escape(text))
    for name, probe in report.get("bundle", {}).items():
        mark = _MARKS["works" if probe["works"] else "no"]
        table.add_row(f"bundle on {name}", "", mark, escape(_with_fix(probe)))
    return table


def _extras(extras: dict[str, Any]) -> Table:
    table = new_table("Extras", "", "installed", "")
    table.columns[2].justify = "left"
    for name, extra in extras.items():
        detail = "" if extra["installed"] else f"missing {', '.join(extra['missing'])}\nfix: {extra['fix']}"
        table.add_row(escape(f"[{name}]"), _MARKS["works" if extra["installed"] else "no"], escape(detail))
    return table


def _warnings(warnings: list[dict[str, str]]) -> Table:
    table = new_table("What could be better", "", "")
    table.show_header = False
    table.columns[1].justify = "left"
    for warning in warnings:
        table.add_row(escape(warning["what"]), escape(f"fix: {warning['fix']}"))
    return table


def _support(rows: list[dict[str, Any]]) -> Table:
    """The system stands below the machine, so that the table fits a terminal of 80 columns."""
    headings = [name for name in rows[0] if name not in ("this_machine", "system")]
    table = new_table("Which TensorRT runs where", *headings)
    for column in table.columns:
        column.justify = "left"
    table.columns[-1].max_width = 9  # a word; what it leaves of 80 columns is the machine's
    for row in rows:
        machine, *cells = (escape(row[name]) for name in headings)
        mark = "► " if row["this_machine"] else ""
        style = "bold green" if row["this_machine"] else None
        table.add_row(f"{mark}{machine}\n[dim]{escape(row['system'])}[/]", *cells, style=style, end_section=True)
    return table


def _facts(title: str, rows: list[tuple[str, str]]) -> Table:
    table = new_table(title, "", "")
    table.show_header = False
    table.columns[1].justify = "left"
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    return table


def _with_fix(found: dict[str, Any]) -> str:
    return f"{found['detail']}\nfix: {found['fix']}" if found["fix"] else str(found["detail"])


def _listed(flags: list[str]) -> str:
    known = ", ".join(label for flag, label in _INT8_FLAGS.items() if flag in flags)
    return known or "none that is fast; a Detector tries once whether it gains by INT8 all the same"
