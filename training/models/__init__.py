"""The models. Adding one is a file here and a line in MODELS.

A model is an `nn.Module` with
    forward(images N×3×h×w) -> raw anomaly output N×1×h'×w',
    map_spec: MapSpec        -> how that becomes an anomaly map and a score,
    teacher: nn.Module       -> the frozen part whose weights come from `training.teacher`,
    phases() -> list[Phase]  -> how it is trained,
    defects: tuple[str, ...] -> the synthetic defects it trains on unless the user chooses (`training.synthesis`),
    batch: int               -> the published batch size.
It may have
    epochs: int              -> of the published schedule; without it that is `PUBLISHED_STEPS`.
    profiles: Mapping        -> name of a trade of accuracy for speed → options that make it.
    profile_for_minutes: str -> the one that learns most where there are only minutes to train; beside `profiles`.
Its parts are named as `training.parts` says, because calibration's scopes go by these names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, cast

from torch import Tensor, nn

from segrd_edge.errors import OptionError
from segrd_edge.mapspec import MapSpec

from ..phases import Phase
from .adps import ADPS
from .destseg import DeSTSeg
from .nferd import NFERD
from .rbd import ReconstructionDistillation
from .rd import RD
from .rdpp import RDPlusPlus
from .segrdpp import SegRDPlusPlus
from .stfpm import STFPM

PUBLISHED_STEPS = 5000  # DeSTSeg's and SegRD++'s


class AnomalyModel(Protocol):
    """What the fit loop, the evaluation and the export ask of a model."""

    map_spec: MapSpec
    teacher: nn.Module
    defects: ClassVar[tuple[str, ...]]
    batch: ClassVar[int]

    def phases(self) -> list[Phase]: ...
    def __call__(self, images: Tensor) -> Tensor: ...


MODELS: dict[str, type[nn.Module]] = {
    "destseg": DeSTSeg,
    "rd": RD,
    "rdpp": RDPlusPlus,
    "segrdpp": SegRDPlusPlus,
    "adps": ADPS,
    "nferd": NFERD,
    "rbd": ReconstructionDistillation,
    "stfpm": STFPM,
}


def own_defects(name: str) -> tuple[str, ...]:
    """The synthetic defects that a model trains on unless the user chooses others."""
    return cast("type[AnomalyModel]", _registered(name)).defects


def published_steps(name: str, images: int, batch: int) -> int:
    """The length of the schedule that a model is published with, or where it is a reconstruction, its base.

    Args:
        images: that it trains on; a schedule in epochs is so many passes over them.
    """
    epochs = getattr(_registered(name), "epochs", None)
    return PUBLISHED_STEPS if epochs is None else math.ceil(epochs * images / batch)


def published_batch(name: str) -> int:
    """The batch size that a model is published with, or where it is a reconstruction, its base."""
    return cast("type[AnomalyModel]", _registered(name)).batch


def options_for_minutes(name: str) -> dict[str, Any]:
    """The options with which a model learns most where there are only minutes to train."""
    model = _registered(name)
    return profile_options(name, cast(Any, model).profile_for_minutes) if hasattr(model, "profiles") else {}


def has_profiles(name: str) -> bool:
    """Whether `profile_options` knows any for this model."""
    return hasattr(_registered(name), "profiles")


def profile_options(name: str, profile: str) -> dict[str, Any]:
    """The options that a profile ("accurate", "balanced" or "fast") stands for.

    Raises:
        OptionError: no such profile, or a model that has none.
    """
    profiles: Mapping[str, Mapping[str, Any]] = getattr(_registered(name), "profiles", {})
    if profile not in profiles:
        having = ", ".join(each for each, model in MODELS.items() if hasattr(model, "profiles"))
        raise OptionError(
            f"the model {name} has no profile {profile!r}",
            expected="one of " + ", ".join(profiles) if profiles else f"a model that has profiles: {having}",
            fix=f"--model {name} --profile balanced" if profiles else "leave --profile out, or choose one with --model",
        )
    return dict(profiles[profile])


def build_model(name: str, **options: Any) -> Any:
    """A model with random weights by its registered name (an `nn.Module` that is an `AnomalyModel`)."""
    model = _registered(name)
    try:
        return model(**options)
    except TypeError as error:
        known = [p for p in inspect.signature(model).parameters if p not in ("backbone", "size_hw")]
        raise OptionError(f"{name}: {error}", expected="model options among " + ", ".join(known)) from error


def _registered(name: str) -> type[nn.Module]:
    if name not in MODELS:
        raise OptionError(f"unknown model {name!r}", expected="one of " + ", ".join(MODELS))
    return MODELS[name]
