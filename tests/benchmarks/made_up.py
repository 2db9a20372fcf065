"""Comparisons that nobody ran: 20 good and 20 defective images, of which a model misses so many."""

from __future__ import annotations

from typing import Any

import numpy as np

from segrd_edge.benchmarks.choice import Contestant, Scored

GOOD = DEFECTS = 20
SPEED = {"fp32": 1, "int8": 2}
METRICS = ("pixel_auroc", "aupro", "iap", "iap90", "f1")


def scored(missed: int, pixel_ap: float | None) -> Scored:
    """Image AUROC 1 - missed / 20, the first defects being missed; single images' APs 0.1 around `pixel_ap`."""
    defects = np.where(np.arange(DEFECTS) < missed, 0.01, np.linspace(0.8, 0.9, DEFECTS))
    aps = np.full(GOOD + DEFECTS, np.nan)
    if pixel_ap is not None:
        aps[GOOD:] = pixel_ap + 0.1 * (-1) ** np.arange(DEFECTS)
    labels = np.arange(GOOD + DEFECTS) >= GOOD
    return Scored(labels, np.concatenate([np.linspace(0.1, 0.4, GOOD), defects]), aps)


def contestant(
    model: str,
    median_ms: float,
    missed: int = 0,
    pixel_ap: float | None = 0.7,
    *,
    precision: str = "fp32",
    p95_ms: float | None = None,
) -> Contestant:
    auroc, images = 1 - missed / DEFECTS, scored(missed, pixel_ap)
    return Contestant(model, precision, auroc, pixel_ap, median_ms, p95_ms or 1.1 * median_ms, images)


def record(
    missed: int = 0, pixel_ap: float | None = 0.7, *, refused: bool = False, evaluated: bool = True, **more: Any
) -> dict[str, Any]:
    """result.json of a model whose INT8 is as good as its fp32."""
    images = scored(missed, pixel_ap)
    rows = zip(images.defective.tolist(), images.scores.tolist(), images.pixel_ap.tolist(), strict=True)
    own = [(defective, {"score": s, "pixel_ap": None if np.isnan(ap) else ap}) for defective, s, ap in rows]
    return {
        "model": {"name": "rd", "parameters": 18_226_593, "gmacs": 4.328},
        "options": {},
        "teacher": {"name": "edge", "sha256": "0" * 64},
        "steps": 836,
        "seconds": 480.5,
        "good_images": 167,
        "held_out": 42,
        "counts": {"train/good": 209, "test/good": GOOD, "test/dent": DEFECTS, "masks": DEFECTS},
        "date": "2026-01-01",
        "bundle_bytes": 93_768_058,
        "precisions": {name: _reached(missed, pixel_ap, evaluated=evaluated) for name in ("fp32", "int8")},
        "default_precision": "fp32" if refused else "int8",
        "int8": {"scope": "head", "score_mean": 0.021 if refused else 0.004},
        "images": [
            {"file": f"{i:03d}.png", "kind": "dent", "defective": defective, "fp32": figures, "int8": figures}
            for i, (defective, figures) in enumerate(own)
        ]
        if evaluated
        else [],
        **more,
    }


def _reached(missed: int, pixel_ap: float | None, *, evaluated: bool) -> dict[str, Any]:
    if not evaluated:
        return {"threshold": 0.5, "escape_rate": None, "wrong": None}
    pixel = None if pixel_ap is None else 0.9
    metrics = dict.fromkeys(METRICS, pixel) | {"image_auroc": 1 - missed / DEFECTS, "pixel_ap": pixel_ap}
    escapes = [missed, DEFECTS]
    wrong = {"false_rejects": [1, GOOD], "escapes": escapes, "escapes_by_kind": {"dent": escapes}}
    return {"threshold": 0.5, "escape_rate": missed / DEFECTS, "wrong": wrong, **metrics, "by_kind": {"dent": metrics}}


def timed(bundle: str, precision: str, median_ms: float) -> dict[str, Any]:
    return {"bundle": bundle, "precision": precision, "median_ms": median_ms, "p95_ms": round(1.1 * median_ms, 2)}


def summary(
    models: dict[str, dict[str, Any]], median_ms: dict[str, float], budget_ms: float | None = None, **more: Any
) -> dict[str, Any]:
    """compare.json: INT8 takes half of `median_ms`."""
    cpu = {"model": "a processor", "architecture": "x86_64", "mhz": None, "usable_cores": 2, "cores": 2}
    environment = {"cpu": {**cpu, "flags": None, "governor": None}, "memory_gib": None, "os": "an OS"}
    environment |= {"power": {}, "gpus": []}
    environment |= {"python": "3.11", "segrd_edge": "0.1.0", "packages": {}, "variables": {}, "opencv_threads": 2}
    latency = {
        "engine": "openvino",
        "engine_version": "2026.4",
        "frames": {"source": "held-out good photographs", "count": 8, "sizes_hw": [[700, 700]]},
        "rounds": 15,
        "samples": 30,
        "noisy_rounds": 0,
        "skipped": {},
        "environment": {**environment, "load_average": {"before": [0.1], "after": None}},
        "bundles": [
            timed(name, p, ms / (1 + (p == "int8"))) for name, ms in median_ms.items() for p in ("fp32", "int8")
        ],
    }
    settings = {
        "minutes": 8.0, "steps": None, "seed": 0, "batch": 4, "backbone": "resnet18", "defects": None, "textures": None,
        "preprocess": {"size_hw": (256, 256)},
    }  # fmt: skip
    return {
        "photos": "photos/<bottle>", "command": "segrd-compare photos/bottle --out compare", "settings": settings,
        "threads": None, "latency_budget_ms": budget_ms, "models": models, "failed": {}, "latency": latency, **more,
    }  # fmt: skip
