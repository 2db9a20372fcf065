"""Whether INT8 is safe for this part, and why it is the default or is not: what nobody must miss who reads no further.

On the images of the metrics INT8 is held to three aims, see `limits`. The limits that decided at the export are others:
they hold on calibration frames, and the aims can still be missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.ladder import PLAN
from segrd_edge.manifest import LatencyRecord, Manifest, Precision
from segrd_edge.training.evaluate import Evaluation

from .limits import MOST_LOST, MOST_TURNED
from .report_facts import Difference, compare
from .report_text import percent, plural, significant

REFERENCE: Precision = "fp32"
_NAMES: dict[Precision, str] = {"int8": "INT8", "mixed": "Mixed precision"}
_METRICS = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP"}
_ROUNDING = 1e-9  # of the differences of metrics
_NOTHING = 5e-5  # a loss that four decimals do not show


@dataclass(frozen=True)
class Aim:
    """One thing that a precision with INT8 is held to, and what it does on the images of the metrics."""

    name: Literal["image_auroc", "pixel_ap", "verdicts"]
    cost: float | None  # what it loses against fp32, or the share of the verdicts that it turns; None: not measurable
    limit: float
    one_image: float | None  # the most that a single image can change `cost` by; None of pixel AP: areas decide there

    @property
    def is_missed(self) -> bool:
        return self.cost is not None and self.cost > self.limit + _ROUNDING


@dataclass(frozen=True)
class Held:
    """A precision with INT8, its differences from fp32 and its aims."""

    precision: Precision
    difference: Difference
    aims: list[Aim]
    masks: int  # images that pixel AP rests on
    is_synthetic: bool

    @property
    def missed(self) -> list[Aim]:
        return [aim for aim in self.aims if aim.is_missed]


@dataclass(frozen=True)
class Safety:
    """What is said of INT8 at the top of the report; a part that has nothing to say is empty."""

    warning: str  # of missed aims; it belongs into the heading
    answer: str  # whether INT8 is safe, where nothing warns
    note: str  # how far the images can tell, and what to do


def held_to_aims(manifest: Manifest, evaluations: Mapping[str, Evaluation], precision: Precision) -> Held | None:
    """A precision with INT8 against its aims; None for another, and without images to tell by."""
    if precision not in _NAMES or precision not in evaluations or REFERENCE not in evaluations:
        return None
    before, after = evaluations[REFERENCE], evaluations[precision]
    thresholds = manifest.graphs[REFERENCE].threshold.value, manifest.graphs[precision].threshold.value
    difference = compare(before, after, thresholds)
    rarer = min(after.metrics.images_good, after.metrics.images_defect)
    aims = [
        Aim("image_auroc", _lost(difference.image_auroc), MOST_LOST["image_auroc"], 1 / rarer if rarer else None),
        Aim("pixel_ap", _lost(difference.pixel_ap), MOST_LOST["pixel_ap"], None),
        Aim("verdicts", difference.verdicts.rate, MOST_TURNED, 1 / difference.verdicts.total),
    ]
    return Held(precision, difference, aims, after.metrics.images_with_mask, after.is_synthetic)


def taken_by_themselves(manifest: Manifest) -> list[Precision]:
    """The precisions with INT8 that run where nobody names one: the default, and mixed where TensorRT may choose it."""
    return [
        name
        for name in manifest.graphs
        if name in _NAMES
        and (name == manifest.default_precision or (name == "mixed" and manifest.graphs[name].is_safe is not False))
    ]


def safety(manifest: Manifest, calibration: Calibration | None, evaluations: Mapping[str, Evaluation]) -> Safety:
    """Of the precisions with INT8 that run by themselves; where none does, why not."""
    taken = taken_by_themselves(manifest)
    if manifest.default_precision not in taken and not evaluations:
        return Safety("", why_default(manifest, calibration), "")
    held = [found for name in taken if (found := held_to_aims(manifest, evaluations, name))]
    if taken and not held:
        names = " and ".join(taken)
        return Safety("", "", f"No test images were evaluated, so what {names} costs in accuracy is not known.")
    missed = [found for found in held if found.missed]
    answers = [_safe(found) for found in held if not found.missed]
    if manifest.default_precision not in taken:
        answers.insert(0, why_default(manifest, calibration))
    notes = [note for found in held for note in (_grain(found), _remedy(manifest, found)) if note]
    return Safety(" ".join(map(_warning, missed)), " ".join(filter(None, answers)), " ".join(dict.fromkeys(notes)))


def why_default(manifest: Manifest, calibration: Calibration | None) -> str:
    """Whether INT8 is what a processor runs, and why; empty where there is no INT8."""
    if manifest.calibration is None:
        return ""
    chosen = manifest.default_precision == "int8"
    answer = "INT8 is the default on a processor" if chosen else "INT8 is in the bundle, but fp32 stays the default"
    if calibration is None:
        return f"{answer}."
    if chosen:
        share = percent(calibration.int8_share)
        return f"{answer}: with {share} of the work in it, the results keep within the limits ({calibration.budget})."
    if breaches := calibration.budget.breaches(calibration.drift):
        return f"{answer}: {'; '.join(breaches)}."
    if calibration.is_fast and manifest.latency is not None:
        return f"{answer}: {_by_budget(manifest.latency)}."
    source = "by its work" if calibration.speedup is None else "measured"
    speed = f"{source} {calibration.reached_speedup:.2f} times as fast as fp32"
    return f"{answer}: it is {speed}, and {calibration.budget.speedup:g} times was asked for."


def finer(manifest: Manifest) -> str:
    """What to do for an INT8 that moves less."""
    if manifest.calibration is not None and manifest.calibration.scope == PLAN:
        return "put more of it in float in the plan that made this bundle; section 8 says what each block does alone."
    drift = manifest.graphs["int8"].drift if "int8" in manifest.graphs else None
    if drift is None:
        return ""
    second = None if manifest.calibration is None else manifest.calibration.second_try
    if second is not None and not second.is_taken:
        if second.turned >= second.turned_before or not second.is_safe:
            return "there is nothing to add to the command: scores that move half as far were tried."
        return (
            f"add --max-score-shift {second.score_shift:g} to the command that made this bundle: that turned "
            f"{second.turned} of {plural(second.frames, 'verdict')} instead of {second.turned_before} when it was "
            f"tried, but by its work is only {second.speedup:.1f} times as fast as fp32."
        )
    return (
        f"add --max-score-shift {drift['score_mean'] / 2:.1g} to the command that made this bundle"
        f"{_instead(manifest)}: half of what INT8 moves the calibration frames' scores by now, for some of its speed."
    )


def _instead(manifest: Manifest) -> str:
    """A scope that was asked for has to go, since no limit changes it; one that was not is tried after "all"."""
    record = manifest.calibration
    if record is None or record.scope == "all" or list(record.drift) != [record.scope]:
        return ""
    return f" in place of --int8-scope {record.scope}"


def second_try(manifest: Manifest) -> str:
    """What a finer calibration was made for, where it was taken; empty otherwise."""
    second = None if manifest.calibration is None else manifest.calibration.second_try
    if second is None or not second.is_taken:
        return ""
    changes = manifest.graphs["int8"].verdict_changes
    images = "held-out" if changes is None or changes.test is None else "test"
    return (
        f" This INT8 is the second: the first turned {second.turned_before} of {plural(second.frames, 'verdict')} on "
        f"the {images} images, more than {percent(MOST_TURNED)}, so scores were made to move by "
        f"{second.score_shift:g} at most, and it turns {second.turned}."
    )


def _by_budget(latency: LatencyRecord) -> str:
    """Why fp32 is the default of a bundle with a budget, as `benchmarks.budget` chooses."""
    limit = f"the budget of {latency.budget_ms:g} ms"
    if any(name not in latency.p99_ms for name in ("fp32", "int8")):
        return f"against {limit} only {' and '.join(latency.p99_ms)} could be timed here"
    if latency.p99_ms["int8"] > latency.budget_ms:
        return f"it takes {latency.p99_ms['int8']:.1f} ms at p99 here, and {limit} is kept by fp32"
    if latency.p99_ms["fp32"] <= latency.p99_ms["int8"]:
        return f"fp32 keeps {limit}, and is not slower here"
    return f"fp32 keeps {limit} as well, and is more accurate on the images that the metrics come from"


def _lost(difference: float | None) -> float | None:
    return None if difference is None else -difference


def _warning(held: Held) -> str:
    images = " on synthetic defects" if held.is_synthetic else ""
    return f"{_NAMES[held.precision]} costs more than it should{images}: it {_costs(held, held.missed)}."


def _safe(held: Held) -> str:
    images = plural(held.difference.verdicts.total, "test image")
    images += " with and without synthetic defects" if held.is_synthetic else ""
    said = f"{_NAMES[held.precision]} is safe for this part, as far as {images} can show: it {_costs(held, held.aims)}."
    unknown = " and ".join(_METRICS[aim.name] for aim in held.aims if aim.cost is None)
    return f"{said} What it does to {unknown} is not known, for want of images or masks." if unknown else said


def _costs(held: Held, aims: Sequence[Aim]) -> str:
    """ "loses 0.0125 image AUROC (aim: at most 0.003), and turns 3 of 87 verdicts (3.45 %; aim: at most 1 %)"."""
    losses = [
        f"{significant(aim.cost, 3) if aim.cost > _NOTHING else 'no'} {_METRICS[aim.name]} (aim: at most {aim.limit:g})"
        for aim in aims
        if aim.name in _METRICS and aim.cost is not None
    ]
    said = [f"loses {' and '.join(losses)}"] if losses else []
    turned = held.difference.verdicts
    if any(aim.name == "verdicts" for aim in aims):
        aim = f"{percent(turned.rate)}; aim: at most {percent(MOST_TURNED)}"
        said.append(f"turns {turned.count} of {plural(turned.total, 'verdict')} ({aim})")
    return ", and ".join(said)


def _grain(held: Held) -> str:
    """How much a single image is worth, where that is more than an aim allows; and the masks of a missed pixel AP."""
    said = []
    coarse = [aim for aim in held.aims if aim.cost is not None and aim.one_image and aim.one_image > aim.limit]
    if coarse:
        worth = " and ".join(
            f"{percent(aim.one_image)} of the verdicts"
            if aim.name == "verdicts"
            else f"up to {significant(aim.one_image, 2)} {_METRICS[aim.name]}"
            for aim in reversed(coarse)
        )
        said.append(
            f"One of so few images is worth {worth}, more than the aim allows{_so(held.missed)}; more images would "
            "tell more finely."
        )
    if any(aim.name == "pixel_ap" for aim in held.missed):
        said.append(f"Pixel AP rests on {plural(held.masks, 'mask')}.")
    return " ".join(said)


def _so(missed: Sequence[Aim]) -> str:
    alone = [aim.one_image is not None and (aim.cost or 0.0) <= aim.one_image + _ROUNDING for aim in missed]
    return ", so that one alone can have done this" if alone and all(alone) else ""


def _remedy(manifest: Manifest, held: Held) -> str:
    if not held.missed:
        return ""
    less = finer(manifest)
    return (f"For less, {less} " if less else "") + 'precision="fp32" runs without INT8, at fp32\'s speed.'
