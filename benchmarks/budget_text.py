"""The answer to a latency budget in sentences, the same for the terminal and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .budget import Answer, Timed
from .choice import Contestant
from .distribution import most_late
from .figures import ms

_CROP_SHARE = 0.2  # of the budget; a resize that takes more is worth a word


def headline(answer: Answer) -> str:
    """What to take, or that there is nothing to take."""
    budget = f"{answer.budget_ms:g} ms"
    if not answer.fitting:
        nearest = answer.nearest
        took, over = ms(nearest.limit_ms), ms(nearest.limit_ms - answer.budget_ms)
        return f"Nothing keeps {budget} at p99. The nearest, {nearest.name}, takes {took} ms: {over} ms over."
    best = best_of(answer)
    if not best:
        fastest = answer.fitting[0]
        return (
            f"{len(answer.fitting)} of {len(answer.timed)} keep {budget}, the fastest {fastest.name} with "
            f"{ms(fastest.limit_ms)} ms at p99. Which is the most accurate is not known: these bundles hold no metrics."
        )
    return " ".join(
        f"Take {each.name}: the most accurate within {budget} by {basis}: {accuracy(each)}, {_room(each, answer)}."
        for basis, each in best.items()
    )


def best_of(answer: Answer) -> dict[str, Timed]:
    """What the metrics come from → the best within the budget."""
    return {basis.text: choice.best for basis, choice in answer.choices.items() if isinstance(choice.best, Timed)}


def sentences(answer: Answer, frame: str, threads: int | None = None) -> list[str]:
    """What each step costs, and what the headline does not say. `frame` is WIDTHxHEIGHT of the frames."""
    found = [] if answer.fitting else _ways_down(answer, frame)
    if len(answer.choices) > 1:
        found.append(
            "These metrics come from different images, and nothing can be said across them: evaluate the bundles on "
            "the same photographs (segrd-eval)."
        )
    for best in best_of(answer).values():
        found += _steps(answer, best)
    for choice in answer.choices.values():
        if choice.best is not None and choice.equal:
            others = ", ".join(f"{each.name} ({ms(each.limit_ms)} ms)" for each in choice.equal)
            found.append(f"The images cannot tell it from {others}: of equals, the fastest is taken.")
    if refused := [each.name for each in answer.timed if not each.is_accepted]:
        found.append(
            f"Not to choose from: {', '.join(refused)}. INT8 moves the scores of the calibration frames too far there."
        )
    return found + [_certainty(each, answer, frame, threads) for each in best_of(answer).values()]


def accuracy(contestant: Contestant) -> str:
    text = "image AUROC " + _number(contestant.image_auroc)
    return text if contestant.pixel_ap is None else f"{text}, pixel AP {_number(contestant.pixel_ap)}"


def python_line(timed: Timed, threads: int | None) -> str:
    """What to write in line software."""
    more = "" if threads is None else f", threads={threads}"
    return f'Detector("{timed.model}", engine="{timed.engine}", precision="{timed.precision}"{more})'


def untrained_headline(found: Mapping[str, Any]) -> str:
    """How many networks keep the budget, or which comes nearest. `found` is what `untrained.search` gives."""
    budget = f"{found['budget_ms']:g} ms"
    if found["fitting"]:
        fitting = len({row["bundle"] for row in found["networks"] if row["fits"]})
        keep = "1 network keeps" if fitting == 1 else f"{fitting} networks keep"
        return f"{keep} {budget} at p99. How accurate any of them is, nobody knows before it is trained."
    if found["networks"]:
        nearest = found["networks"][0]
        return f"Nothing keeps {budget} at p99. The nearest is {_network(nearest)}, {ms(nearest['p99_ms'])} ms."
    nearest = found["over_at_best"][0]
    return f"Nothing keeps {budget}. The nearest is {_network(nearest)}, {ms(nearest['min_ms'])} ms at its best."


def untrained_sentences(found: Mapping[str, Any]) -> list[str]:
    """What the figures do not say."""
    sentences = []
    if found["compare"]:
        largest, *smaller = found["compare"]
        sentences.append(
            f"To train those of the largest size on your photographs and learn which is the most accurate: {largest}"
        )
        sentences += [f"Other models or larger heads, which keep it at a smaller size: {more}" for more in smaller]
    else:
        sentences.append("Smaller networks: --size 128, for example. Smaller frames: --frame, and --crop in training.")
    sentences.append(
        "INT8 covers the whole network here. Where that moves the scores too far, an export leaves parts in float, and "
        "takes longer: between int8 and fp32 above."
    )
    if late := found["over_at_best"]:
        names = ", ".join(f"{_network(row)} ({ms(row['min_ms'])} ms)" for row in late)
        sentences.append(f"Over the budget in the fastest of a few inspections: {names}.")
    if found["not_built"]:
        sentences.append(f"Not tried, because a smaller one is over the budget: {', '.join(found['not_built'])}.")
    return sentences


def _network(row: Mapping[str, Any]) -> str:
    return f"{row['bundle']} at {row['precision']} in {row['engine']}"


def _steps(answer: Answer, best: Timed) -> list[str]:
    dearer = answer.dearer(best)
    if dearer:
        step = dearer[0]
        text = (
            f"More accurate, and {ms(step.limit_ms - answer.budget_ms)} ms over the budget: {step.name}, "
            f"{_gain(step, best)}, {ms(step.limit_ms)} ms."
        )
        if len(dearer) > 1:
            text += f" Slower still: {', '.join(f'{each.name} ({ms(each.limit_ms)} ms)' for each in dearer[1:])}."
    else:
        text = "Nothing of what is over the budget is more accurate."
    cheaper = answer.cheaper(best)
    saved = (
        []
        if cheaper is None
        else [
            f"The next step down, {cheaper.name}, saves {ms(best.limit_ms - cheaper.limit_ms)} ms "
            f"({ms(cheaper.limit_ms)} ms): {_gain(cheaper, best)}."
        ]
    )
    return [text, *saved, _stages(best)]


def _ways_down(answer: Answer, frame: str) -> list[str]:
    nearest, found = answer.nearest, []
    found.append(_stages(nearest))
    if nearest.median_ms <= answer.budget_ms:
        found.append(
            f"Its median, {ms(nearest.median_ms)} ms, would fit: what is missing is the tail. Stop other programs, or "
            "leave them a core with --threads, and measure again."
        )
    if nearest.stages_ms["preprocess"] > _CROP_SHARE * answer.budget_ms:
        found.append(
            f"The resize of {frame} takes {ms(nearest.stages_ms['preprocess'])} ms of it: segrd-train --crop cuts off "
            "what is not the part."
        )
    found.append(
        "What the engine takes falls with a smaller --size, about as its pixels, with --profile fast of destseg, "
        "segrdpp and adps, and with another --model. Which of them fit here, before anything is trained: "
        f"segrd-bench --budget {answer.budget_ms:g}ms --frame {frame}"
    )
    return found


def _certainty(timed: Timed, answer: Answer, frame: str, threads: int | None) -> str:
    more = "" if threads is None else f" --threads {threads}"
    return (
        f"Of the {answer.samples} inspections of {timed.name} {timed.late or 'none'} took longer than "
        f"{answer.budget_ms:g} ms. So at most {most_late(timed.late, answer.samples):.1%} of the frames will be late, "
        "with 95 % confidence, where they come one after the other as here; for a smaller share measure longer "
        "(--seconds). At the pace of the line: "
        f"segrd-bench {timed.model} --engine {timed.engine} --precision {timed.precision} --frame {frame}{more} "
        f"--period {answer.budget_ms:g} --deadline {answer.budget_ms:g}"
    )


def _stages(timed: Timed) -> str:
    stages = ", ".join(f"{name} {ms(value)}" for name, value in timed.stages_ms.items())
    return f"Where the {ms(timed.median_ms)} ms (median) of {timed.name} go: {stages}."


def _room(timed: Timed, answer: Answer) -> str:
    return f"{ms(timed.limit_ms)} ms at p99, {ms(answer.budget_ms - timed.limit_ms)} ms to spare"


def _gain(to: Timed, best: Timed) -> str:
    text = f"image AUROC {_difference(to.image_auroc, best.image_auroc)}"
    if to.pixel_ap is None or best.pixel_ap is None:
        return text
    return f"{text}, pixel AP {_difference(to.pixel_ap, best.pixel_ap)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _difference(to: float | None, of: float | None) -> str:
    return "–" if to is None or of is None else f"{to - of:+.3f}".replace("-", "−")
