"""What may be said about INT8: what cannot work, and the command that says the same."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.errors import OptionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 513}, "513 calibration frames"),
        ({"method": "kl"}, "unknown calibration method 'kl'"),
        ({"percentile": 40}, "calibration percentile 40"),
        ({"plan": {}, "scope": "all"}, "a plan beside a scope"),
        ({"improve": ("weights",)}, "unknown INT8 improvement 'weights'"),
        ({"scope": "some"}, "unknown INT8 scope 'some'"),
        ({"fine_tune_minutes": -1.0}, "--qat-minutes -1 "),
        (
            {"fine_tune_minutes": math.nan},
            r"--qat-minutes nan \(.*minutes\)\nexpected: a number of minutes.*\nfix: .* 10",
        ),
        ({"fine_tune_minutes": math.inf}, "--qat-minutes inf "),
        ({"fine_tune_minutes": 2.0, "improve": ("levels",)}, "--qat-minutes 2 with levels"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Int8Settings(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        Int8Settings(),
        Int8Settings(frames=128, method="auto", improve=("bias", "levels")),
        Int8Settings(scope="head", fine_tune_minutes=1.5),
        Int8Settings(budget=Budget(score_shift=0.02, ap_drop=0.01, flip_rate=0.05, speedup=2.5)),
    ],
)
def test_the_command_says_the_same(settings: Int8Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """segrd-export makes the settings again from the options that the report shows."""
    from segrd_edge.export import bundle, cli
    from segrd_edge.training.run import Run

    class ReachedError(Exception):
        """The export has been reached."""

    def export(*args: Any, **options: Any) -> None:
        assert options["settings"] == replace(settings, each_block=True)  # for the report
        raise ReachedError

    monkeypatch.setattr(Run, "load", lambda path: None)
    monkeypatch.setattr(bundle, "export_bundle", export)
    typed = shlex.split(" ".join(settings.command_options("part.plan.json")))
    app = typer.Typer()
    app.command()(cli.command)
    found = CliRunner().invoke(app, ["run", *typed])
    assert isinstance(found.exception, ReachedError)


def test_a_plan_is_named_by_its_file() -> None:
    assert list(Int8Settings(plan={"stem": "int8"}).command_options("part.plan.json")) == ["--plan part.plan.json"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "mse", "fine_tune_minutes": 3.0}, "--calibration, --qat-minutes"),
        ({"scope": "head"}, "--int8-scope"),
        ({"plan": {"stem": "int8"}}, "--plan"),
        ({"improve": ()}, "--int8-improve"),
        ({"budget": Budget(score_shift=0.02, pairs_turned=0)}, "--max-score-shift, --max-pairs-turned"),
        ({"budget": Budget(ap_drop=0, flip_rate=0, speedup=3)}, "--max-ap-drop, --max-flip-rate, --min-speedup"),
    ],
)
def test_what_an_export_without_int8_would_ignore_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=f"^{named} without INT8\n"):
        Int8Settings(**settings).check_without_int8()


def test_float16_has_its_frames_without_int8() -> None:
    Int8Settings(frames=128, each_block=True).check_without_int8()
