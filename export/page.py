"""Pages of one look: a template, the report's style, and no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report_text import number, percent, plural

_STYLE = Path(__file__).parent / "templates" / "report.css"


def render(template: str | Path, values: dict[str, Any]) -> str:
    """A self-contained HTML page from a jinja2 template, which is given `values` and `style`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    template = Path(template)
    templates = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=number, percent=percent, plural=plural, svg=Markup)
    style = Markup(_STYLE.read_text(encoding="utf-8"))
    return templates.get_template(template.name).render(values, style=style)
