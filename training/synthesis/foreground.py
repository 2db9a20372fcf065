"""The object on a plain background, so that synthetic defects stay on it."""

from __future__ import annotations

import cv2
import numpy as np

from .base import Image, Mask


def foreground_mask(image: Image, *, plain_std: float = 14.0) -> Mask | None:
    """The object on a plain background, or None where the background is not plain or no object stands out.

    The background's colour is the median of the border; it is plain when the border, smoothed, varies by less than
    `plain_std` grey levels. The object is what differs from it by more than Otsu's threshold, closed and filled.
    """
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), 2)).astype(np.float32)
    ring = max(2, min(image.shape[:2]) // 40)
    border = np.concatenate(
        [part.reshape(-1, 3) for part in (smooth[:ring], smooth[-ring:], smooth[:, :ring], smooth[:, -ring:])]
    )
    background = np.median(border, axis=0)
    if np.abs(border - background).mean(axis=0).max() > plain_std:
        return None
    distance = np.clip(np.abs(smooth - background).max(axis=2), 0, 255).astype(np.uint8)
    level, mask = cv2.threshold(distance, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if level < 8:
        return None
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(image.shape[:2], np.uint8)
    cv2.drawContours(filled, outlines, -1, 255, cv2.FILLED)
    filled = cv2.dilate(filled, kernel)
    share = float((filled > 0).mean())
    return np.asarray(filled > 0) if 0.05 < share < 0.9 else None
