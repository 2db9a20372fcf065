"""What the models are composed of, one idea per file.

    reverse.py           one-class embedding and reverse decoder: RD4AD's student, and how it is trained
    projection.py        RD++'s projection layers and the loss that trains them
    fusion.py            attention-based fusion of levels: ReviewKD's, as SegRD++ uses it
    denoising.py         DeSTSeg's student
    patches.py           ADPS's student, which sees the image in patches
    masking.py           features hidden behind a token, for reconstruction-based distillation
    prototypes.py        a bank of normal features that is read by attention, for NFERD
    normality.py         its fusion with a decoder's levels
    distance.py          the cosine anomaly map of models that have no head
    head.py              the segmentation head of DeSTSeg and SegRD++, what it reads, and the phase that trains it
    postsegmentation.py  ADPS's: features gated by disagreement, and a U-Net's decoder
    transport.py         Sinkhorn divergence

A model's weights are named after its parts, and calibration's scopes go by these names:

    teacher           frozen, stages `layer1` (fine) to `layer3`
    student.encoder   from the image or the teacher's features to the bottleneck
    student.decoder   `stage4` (coarse) to `stage1` (fine), as many as there are
    student.fusion    what still changes the decoder's levels
    head              reads both and gives the map; models that compare teacher and student directly have none
    full_size         what still follows the head at the image's own size
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def chain(**modules: nn.Module) -> nn.Sequential:
    """Modules in a row, each called on what the one before gave, under their names."""
    return nn.Sequential(OrderedDict(modules))
