"""What counts as a loss of accuracy: less than this is none."""

from __future__ import annotations

# The aims of INT8: what it may lose against fp32, and the share of the verdicts that it may turn, before the report
# says so above everything else.
MOST_LOST = {"image_auroc": 0.003, "pixel_ap": 0.01}
MOST_TURNED = 0.01
LEAST_SPEEDUP = 2.5  # fp32's time over INT8's, with VNNI

LOSS_LIMITS = {"image_auroc": 0.005, "pixel_ap": 0.02}  # two models that differ by no more are equals: `segrd-compare`
