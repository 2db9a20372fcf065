"""What counts as a loss of accuracy: less than this is none."""

from __future__ import annotations

LOSS_LIMITS = {"image_auroc": 0.005, "pixel_ap": 0.02}  # what INT8 may cost before the report points at it

MOST_TURNED = 0.01  # share of the verdicts that INT8 may turn
