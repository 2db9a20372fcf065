"""What nvidia-smi says of the cards of a PC: clocks, power, modes, and why a card is slower than it could be.

Asking disturbs what runs on the card for some milliseconds, so nothing here is called while frames are inspected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..machine import output_of
from .clocks import Finding

_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "persistence_mode", "compute_mode")
# One field under two names: older drivers refuse a query with the new one.
_REASONS_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# nvmlClocksEventReason… of nvml.h. Idle (1) and clocks set by hand (2) are no slowdown.
_REASONS = {
    0x4: "its power limit",
    0x8: "a slowdown of the hardware's",
    0x20: "heat",
    0x40: "heat, as the hardware found",
    0x80: "the power supply's brake",
}
_IDLE_SHARE = 0.5  # of the highest clock; below it the clock is not locked


@dataclass(frozen=True)
class Card:
    """One card; None where the driver does not say ("[N/A]", as for the power of many laptops)."""

    name: str | None
    driver: str | None
    sm_mhz: int | None
    most_sm_mhz: int | None
    power_limit_w: float | None
    persistence: str | None  # "Enabled" or "Disabled"; always the latter on Windows, which needs none
    compute_mode: str | None  # "Default", "Exclusive_Process", "Prohibited"
    slowed_by: tuple[str, ...] = ()

    def warnings(self, *, is_windows: bool) -> list[Finding]:
        """What makes this card slower, or its latency less steady, than it could be."""
        found = []
        if self.compute_mode == "Prohibited":
            found.append(Finding(f"{self.name} lets no program compute", "sudo nvidia-smi -c 0"))
        if self.persistence == "Disabled" and not is_windows:
            found.append(
                Finding("the driver unloads when no program uses it: every start is slow", "sudo nvidia-smi -pm 1")
            )
        if self.slowed_by:
            found.append(
                Finding(
                    f"{self.name} is slowed down by {' and '.join(self.slowed_by)}",
                    "better cooling or a stronger supply; nvidia-smi -q -d PERFORMANCE shows more",
                )
            )
        elif self.sm_mhz and self.most_sm_mhz and self.sm_mhz < _IDLE_SHARE * self.most_sm_mhz:
            found.append(
                Finding(
                    f"the clock is not locked ({self.sm_mhz} of {self.most_sm_mhz} MHz now): the first frame after a "
                    "pause is slow",
                    f"sudo nvidia-smi -lgc {self.most_sm_mhz}, or a lower clock that its cooling sustains",
                )
            )
        return found


def cards() -> list[Card]:
    """The cards that nvidia-smi shows, none where it is missing or fails. Nothing raises."""
    rows = _query(_FIELDS) or []
    reasons = next((found for name in _REASONS_FIELDS if (found := _query((name,))) is not None), [])
    masks = [_mask(row[0]) for row in reasons] + [0] * len(rows)
    return [_card(row, mask) for row, mask in zip(rows, masks, strict=False)]


def _query(fields: Sequence[str]) -> list[list[str | None]] | None:
    """A row for each card, None for what the driver does not know; None where a field is unknown to this driver."""
    text = output_of("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    if text is None:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    # A warning of the tool's own has another number of cells.
    return [[None if cell.startswith("[") else cell for cell in row] for row in rows if len(row) == len(fields)]


def _card(row: Sequence[str | None], mask: int) -> Card:
    name, driver, now, most, power, persistence, compute_mode = row
    slowed_by = tuple(text for bit, text in _REASONS.items() if mask & bit)
    return Card(name, driver, _whole(now), _whole(most), _number(power), persistence, compute_mode, slowed_by)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else round(number)


def _mask(text: str | None) -> int:
    """ "0x0000000000000004" """
    try:
        return int(text or "", 16)
    except ValueError:
        return 0
