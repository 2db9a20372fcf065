"""Numbers as people read them, and the sentences of the verdict."""

from __future__ import annotations

from segrd_edge.training.run import Run

from .report_facts import CONFIDENCE, Answer, Difference, Errors, Share

UNKNOWN = "–"
MINUS = "−"


def number(value: float | None, digits: int = 4) -> str:
    """With so many decimals; a dash where there is none."""
    return UNKNOWN if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def score(value: float) -> str:
    """An anomaly score or threshold: four decimals, more where these would hide it."""
    return number(value) if value == 0 or abs(value) >= 0.001 else significant(value, 2)


def signed(value: float | None, digits: int = 4) -> str:
    """A difference with its sign; one that rounds to nothing is ±0."""
    if value is None:
        return UNKNOWN
    text = f"{value:+.{digits}f}"
    return "±0" if float(text) == 0 else text.replace("-", MINUS)


def significant(value: float | None, digits: int = 4) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}g}".replace("-", MINUS)


def percent(rate: float | None, digits: int = 3) -> str:
    return UNKNOWN if rate is None else f"{100 * rate:.{digits}g} %"


def plural(count: int, noun: str, many: str = "") -> str:
    """ "1 image", "2 images"."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def size(size_hw: tuple[int, int]) -> str:
    """Width × height, as cameras state it."""
    return f"{size_hw[1]} × {size_hw[0]}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


NO_DEFECTS = "no defect images were given"
NOT_EVALUATED = "the test images were not evaluated"
_NEXT = {
    NO_DEFECTS: "The threshold keeps good parts in, as said below; whether defects are found, only photographs "
    "of defects can show. Put some into a test folder with good ones beside them and export again; even 20 of each "
    "tell much.",
    NOT_EVALUATED: "The folder holds defect images. Export again with evaluation to learn how many of them are found.",
}


def unknown_verdict(missing: str) -> tuple[str, str]:
    """Headline and advice where nothing was evaluated; `missing` says why: NO_DEFECTS or NOT_EVALUATED."""
    return f"Not known yet: {missing}, so the escape rate is unknown.", _NEXT[missing]


def headline(verdict: Answer, errors: Errors, *, fresh_good: bool) -> str:
    """The answer to "can I use this?" in a sentence or two.

    `fresh_good`: the good images are others than those that set the threshold.
    """
    rejects, escapes = errors.false_rejects, errors.escapes
    if not escapes.total:
        return "Half known: no defect images were given, so the escape rate is unknown."
    if not rejects.total:
        return "Half known: no good test images were given, so the false rejects are unknown."
    found = "It finds all " + plural(escapes.total, "defective test image")
    missed = f"{escapes.count} of {plural(escapes.total, 'defective test image')} escape{'s' * (escapes.count == 1)}"
    if verdict == "yes":
        rejects_too = " and keeps to the false-reject budget." if fresh_good else "; new good parts remain to be tried."
        return f"Yes, as far as these images show. {found}{rejects_too}"
    if verdict == "no":
        also = (
            f", and {rejects.count} of {rejects.total} good ones {_are(rejects.count)} rejected"
            if rejects.count
            else ""
        )
        return f"Not as it stands: {missed}{also}."
    if escapes.count == 0:
        return f"{found}, but rejects more good ones than the budget allows: {rejects.count} of {rejects.total}."
    rejects_too = "false rejects keep to the budget" if fresh_good else "what new good parts do is not known"
    return f"That depends on the escapes: {missed}; {rejects_too}."


def advice(verdict: Answer, errors: Errors) -> str:
    """What to do next."""
    if verdict == "yes":
        return (
            "Before the line depends on it, try it on frames from another day and another shift: "
            "the figures below hold for images like these."
        )
    if verdict == "unknown":
        return "Add the missing kind of test image and export again; even 20 tell much."
    if errors.escapes.count == 0:
        return (
            "Look at the rejected images in section 6. Where they are good parts that training never saw the like of, "
            "add such photographs and train again. Where they lie close to the threshold, section 5 shows how much "
            "room there is above it."
        )
    return (
        "Look at the escapes in section 6. What usually helps: more training time, a larger network size where "
        "the missed defects are small, more photographs that show how good parts vary. A lower threshold finds more "
        "and rejects more."
    )


def share(value: Share, nothing: str) -> str:
    """ "1 of 20 (5 %)", or `nothing` in words where there was no image."""
    return f"{value.count} of {value.total} ({percent(value.rate)})" if value.total else nothing


def error_sentences(errors: Errors, budget: float, *, fresh_good: bool) -> list[str]:
    """What the counts say, and how far they can be trusted."""
    rejects, escapes = errors.false_rejects, errors.escapes
    sentences = []
    if not fresh_good:
        sentences.append(
            "The folder has no good test images of its own, so the held-out ones stand in for them. They set the "
            "threshold, and their false rejects say nothing new."
        )
    elif rejects.total:
        judged = "which fits the budget" if rejects.fits(budget) else "more than chance explains under the budget"
        sentences.append(
            f"{rejects.count} of {plural(rejects.total, 'good test image')} {_are(rejects.count)} rejected, "
            f"{judged} of {percent(budget)}{_limit(rejects)}."
        )
    if escapes.total:
        sentences.append(
            f"{escapes.count} of {plural(escapes.total, 'defective test image')} {_are(escapes.count)} called good"
            f"{_limit(escapes)}."
        )
    else:
        sentences.append("No defect images were given, so the escape rate is unknown.")
    return sentences


def difference_sentence(precision: str, difference: Difference, *, synthetic: bool) -> str:
    verdicts = difference.verdicts
    change = (
        f"{precision} and fp32 give the same verdict on all"
        if verdicts.count == 0
        else f"{precision} and fp32 disagree on {verdicts.count} of"
    )
    ends = f"scores move by {number(difference.score_mean)} on average, {number(difference.score_max)} at most"
    if difference.image_auroc is not None:
        ends += f"; image AUROC changes by {signed(difference.image_auroc)}"
    if difference.pixel_ap is not None:
        ends += f", pixel AP by {signed(difference.pixel_ap)}"
    tested = plural(verdicts.total, "test image") + (" with and without synthetic defects" if synthetic else "")
    return f"{change} {tested}, each at its own threshold; {ends}."


def training_time(run: Run) -> str:
    return f"{run.record['seconds'] / 60:.3g} min, {run.record['steps']} steps of {run.config.batch} images"


def _limit(value: Share) -> str:
    """Nothing to add where all of them are wrong."""
    if value.count == value.total:
        return ""
    return f"; with {percent(CONFIDENCE)} confidence the true rate is below {percent(value.upper_limit)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
