"""The recommendation of a comparison in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segrd_edge.export.report_text import number, plural

from .choice import Choice, Contestant, choose
from .figures import ms


def verdict(
    found: Sequence[Contestant], models: Mapping[str, dict[str, Any]], budget_ms: float | None
) -> dict[str, Any]:
    """What the page says first: `answer` (its colour), `headline` and `sentences`; and the `choice` behind it.

    Args:
        found: what may be chosen, at least one.
        models: name → its record.
        budget_ms: None is none.
    """
    choice = choose(found, budget_ms)
    sentences = [*_reason(choice, budget_ms), *_without_budget(found, choice, budget_ms)]
    if choice.best is not None:
        sentences += _errors(models[choice.best.model], choice.best.precision)
    sentences += _refused(found, models)
    answer = "yes" if choice.best is not None else "no" if not choice.fitting else "decide"
    return {"answer": answer, "headline": _headline(choice, budget_ms), "sentences": sentences, "choice": choice}


def latency(contestant: Contestant) -> str:
    """What is held against the budget, in words."""
    kind = "median; too few samples for p95" if contestant.p95_ms is None else "p95"
    return f"{ms(contestant.limit_ms)} ms ({kind})"


def _headline(choice: Choice, budget_ms: float | None) -> str:
    within = "" if budget_ms is None else f" within {budget_ms:g} ms"
    if not choice.fitting:
        return f"No model keeps {budget_ms:g} ms. The fastest, {choice.fastest.name}, takes {latency(choice.fastest)}."
    best = choice.best
    if best is None:
        return f"Not known: nothing was evaluated. The fastest is {choice.fastest.name}, {latency(choice.fastest)}."
    return f"Take {best.name}: the best of these for this part{within}. {_accuracy(best)}, {latency(best)}."


def _accuracy(contestant: Contestant) -> str:
    text = f"Image AUROC {number(contestant.image_auroc, 3)}"
    return text if contestant.pixel_ap is None else f"{text}, pixel AP {number(contestant.pixel_ap, 3)}"


def _reason(choice: Choice, budget_ms: float | None) -> list[str]:
    """Why this one, step by step as `choice.choose` goes."""
    best, leader, leader_ap = choice.best, choice.leader, choice.leader_ap
    if best is None or leader is None:
        return []
    if len(choice.fitting) == 1:
        return ["It is the only candidate" + (" within the budget." if budget_ms is not None else ".")]
    within = "" if budget_ms is None else " within the budget"
    count = f"{len(choice.fitting)} candidates{within} (a model at a precision each)"
    if len(choice.near) == 1:
        return [f"Of the {count}, it has the highest image AUROC, and no other is within noise of it."]
    highest = f"the highest image AUROC, {number(leader.image_auroc, 3)} of {leader.name}"
    sentences = [f"Of the {count}, {len(choice.near)} reach {highest}, or are within noise of it."]
    if leader_ap is None:
        sentences[0] += " Without masks there is no pixel AP to tell them apart."
    elif not choice.equal:
        sentences[0] += " Of these it has the highest pixel AP, and no other is within noise of that."
    else:
        sentences[0] += (
            f" Of these {len(choice.equal) + 1} reach the highest pixel AP, {number(leader_ap.pixel_ap, 3)} of "
            f"{leader_ap.name}, or are within noise of it."
        )
    if choice.equal:
        others = ", ".join(f"{c.name} ({ms(c.limit_ms)} ms)" for c in choice.equal)
        sentences.append(f"The test images cannot tell it from {others}: of equals, the fastest is taken.")
    return sentences


def _without_budget(found: Sequence[Contestant], choice: Choice, budget_ms: float | None) -> list[str]:
    if budget_ms is None:
        return []
    sentences = [] if choice.fitting else ["A smaller --size makes every model faster, in proportion to its pixels."]
    free = choose(found).best
    if free is not None and free is not choice.best:
        sentences.append(f"Without a budget it would be {free.name}: {_accuracy(free)}, {latency(free)}.")
    return sentences


def _errors(record: Mapping[str, Any], precision: str) -> list[str]:
    """Wrong verdicts at the threshold, where photographs of defects say so."""
    figures = record["precisions"][precision]
    if not figures.get("wrong"):
        return []
    (escapes, defects), (rejects, good) = figures["wrong"]["escapes"], figures["wrong"]["false_rejects"]
    return [
        f"At its threshold {escapes} of {plural(defects, 'defective test image')} "
        f"{'escapes' if escapes == 1 else 'escape'}, and {rejects} of {plural(good, 'good image')} "
        f"{'is' if rejects == 1 else 'are'} rejected"
        + ("." if "test/good" in record["counts"] else ", which set the threshold: new good parts remain to be tried.")
    ]


def _refused(found: Sequence[Contestant], models: Mapping[str, dict[str, Any]]) -> list[str]:
    """Which INT8 graphs may not be chosen."""
    candidates = {(contestant.model, contestant.precision) for contestant in found}
    refused = [n for n, record in models.items() if "int8" in record["precisions"] and (n, "int8") not in candidates]
    if not refused:
        return []
    return [
        f"INT8 of {', '.join(refused)} could not be chosen: it moves the scores of the calibration frames too far from "
        "fp32, so that the bundle keeps fp32."
    ]
