"""Which models, profiles and sizes keep a time per frame on this machine, before anything is trained.

Time does not depend on the weights: graphs of untrained networks are built as the export builds them, and timed as
bundles. INT8 covers the whole network, with scales from a few pictures of noise; an export may leave parts of it in
float, and takes longer then.

    networks, smallest size first ─► build ─► a few inspections ─► what may keep it ─► one interleaved run, p99

What is over the budget even in its fastest inspection cannot keep it at p99, so it is not measured further; and a
network of which nothing can keep it is not built at larger sizes. Of several engines the one goes on in which the
fastest inspection of a graph was faster. The long run comes as often as it has _AT_ONCE graphs, for the memory's sake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segrd_edge import __version__, engines
from segrd_edge.bundle import Bundle, write_bundle
from segrd_edge.calibration.calibrate import calibrate
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.graph import OPSET
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.export.bundle import npz
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.golden import golden_outputs
from segrd_edge.export.graphs import ExportGraph, for_processor
from segrd_edge.export.onnx import export_core
from segrd_edge.export.record import GOLDEN_FILE, graph_file
from segrd_edge.manifest import Manifest, Precision
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.models import MODELS, has_profiles, profile_options
from segrd_edge.training.run import RunConfig, create_model

from .budget_run import Said, Settings, fastest, rounds, supply
from .contenders import Wanted, choose
from .frames import FrameSet
from .side_by_side import measure_wanted

SIZES = (192, 256, 320)
_AT_ONCE = 16
_PICTURES = 2
_ABOVE_ALL_SCORES = 2.0  # a threshold: every frame is a good one, as on a line most are


@dataclass(frozen=True)
class Network:
    """A model that could be trained."""

    model: str
    profile: str | None  # None where the model has none
    size: int  # height and width of its images

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.model, self.profile, str(self.size))))

    @property
    def train_command(self) -> str:
        profile = f" --profile {self.profile}" if self.profile else ""
        out = self.name.replace(" ", "-")
        return f"segrd-train PHOTOS --out runs/{out} --model {self.model}{profile} --size {self.size} --minutes 10"


def networks(models: Sequence[str] | None, sizes: Sequence[int] | None) -> list[Network]:
    """Every model with every profile that it has at every size, smallest size first. None is all models, or SIZES.

    Raises:
        OptionError: an unknown model, or a size that no network has.
    """
    found = []
    for size in sorted(dict.fromkeys(sizes or SIZES)):
        Preprocess((size, size))  # refuses a wrong size
        for model in dict.fromkeys(models or MODELS):
            profiles = list(getattr(MODELS[model], "profiles", ())) if has_profiles(model) else [None]
            found += [Network(model, profile, size) for profile in profiles]
    return found


def build(network: Network, path: Path, options: Mapping[str, Any] | None = None) -> Bundle:
    """Write a bundle of the network with random weights: fp32, and INT8 throughout. `options` are instead of a profile.

    Raises:
        ExportError: as the export.
    """
    preprocess = Preprocess((network.size, network.size))
    if options is None:
        options = profile_options(network.model, network.profile) if network.profile else {}
    torch.manual_seed(0)
    config = RunConfig(data="", model=network.model, options=dict(options), preprocess=preprocess)
    model: Any = create_model(config).eval()
    fp32 = build_deploy_graph(export_core(model, preprocess.size_hw), preprocess, model.map_spec)
    pictures = _noise(preprocess.size_hw)
    int8 = calibrate(
        fp32, [_frame(picture) for picture in pictures], Int8Settings(method="percentile", scope="all", improve=())
    ).model
    graphs: dict[Precision, ExportGraph] = {"fp32": for_processor(fp32), "int8": for_processor(int8)}
    members = {graph_file(name): graph.model.SerializeToString() for name, graph in graphs.items()}
    golden = npz(golden_outputs(graphs, pictures, preprocess))
    write_bundle(path, _manifest(network, model, preprocess, graphs), {**members, GOLDEN_FILE: golden})
    return Bundle.open(path)


def search(models: Sequence[str] | None, sizes: Sequence[int] | None, settings: Settings, said: Said) -> dict[str, Any]:
    """Time untrained networks against the budget; ready for JSON, durations in ms.

    Args:
        models: registered names; None is all.
        sizes: network sizes in pixels; None is SIZES.
        said: called with a line of progress, never while something is timed.

    Raises:
        OptionError: an unknown model, or an impossible size.
        EngineError: no engine for the processor works.
        ExportError: a network cannot be exported.
    """
    tried = networks(models, sizes)
    runs: list[dict[str, Any]] = []
    over: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="segrd-") as folder:
        waiting: dict[Network, tuple[Bundle, list[Wanted]]] = {}
        for network, bundle, wanted in _screened(tried, Path(folder), settings, over, said):
            waiting[network] = bundle, wanted
            if sum(len(each) for _, each in waiting.values()) >= _AT_ONCE:
                runs.append(_measure(waiting, settings, said))
        if waiting:
            runs.append(_measure(waiting, settings, said))
    built = {row["bundle"] for row in over} | {row["bundle"] for run in runs for row in run["bundles"]}
    return _record(tried, runs, over, [network.name for network in tried if network.name not in built], settings)


def _screened(
    tried: Sequence[Network], folder: Path, settings: Settings, over: list[dict[str, Any]], said: Said
) -> Iterator[tuple[Network, Bundle, list[Wanted]]]:
    """Each network with what of it may keep the budget; what does not goes to `over`."""
    too_slow: set[tuple[str, str | None]] = set()
    frames: FrameSet | None = None
    for number, network in enumerate(tried, 1):
        if (network.model, network.profile) in too_slow:
            said(f"{number} of {len(tried)}, {network.name}: over the budget at a smaller size already")
            continue
        said(f"{number} of {len(tried)}, {network.name}: building")
        bundle = build(network, folder / f"{network.name}.segrd")
        frames = frames or supply([bundle], settings)
        rows = _screen(network, bundle, frames, settings)
        possible = [row for row in rows if row["min_ms"] <= settings.budget_ms]
        over += [row for row in rows if row not in possible]
        fastest = ", ".join(f"{row['precision']} {row['min_ms']:.1f} ms in {row['engine']}" for row in rows)
        said(f"    at best {fastest}")
        if possible:
            yield network, bundle, [Wanted(row["engine"], row["precision"]) for row in possible]
        else:
            too_slow.add((network.model, network.profile))
            bundle.path.unlink()


def _screen(network: Network, bundle: Bundle, frames: FrameSet, settings: Settings) -> list[dict[str, Any]]:
    """A row for each precision, in the engine in which it is fastest."""
    wanted = choose(bundle, settings.engines or engines.processor_engines(), settings.precisions)
    return fastest({network.name: bundle}, [(network.name, each) for each in wanted], frames, settings)


def _measure(waiting: dict[Network, tuple[Bundle, list[Wanted]]], settings: Settings, said: Said) -> dict[str, Any]:
    """All that waits, in one interleaved run; afterwards nothing waits."""
    bundles = {network.name: bundle for network, (bundle, _) in waiting.items()}
    wanted = [(network.name, each) for network, (_, several) in waiting.items() for each in several]
    said(f"measuring {len(wanted)} that may keep {settings.budget_ms:g} ms, in turn")
    frames = supply(list(bundles.values()), settings)
    measured = measure_wanted(
        bundles,
        wanted,
        frames,
        threads=settings.threads,
        rounds=rounds(settings, said),
        budget_ms=settings.budget_ms,
    )
    for bundle in bundles.values():
        bundle.path.unlink()
    waiting.clear()
    return measured


def _record(
    tried: Sequence[Network],
    runs: Sequence[Mapping[str, Any]],
    over: Sequence[Mapping[str, Any]],
    not_built: Sequence[str],
    settings: Settings,
) -> dict[str, Any]:
    by_name = {network.name: network for network in tried}
    rows = sorted((row for run in runs for row in run["bundles"]), key=lambda row: row["p99_ms"])
    measured = [_row(row, by_name[row["bundle"]], settings.budget_ms) for row in rows]
    return {
        "mode": "budget, untrained",
        "budget_ms": settings.budget_ms,
        "fitting": sum(row["fits"] for row in measured),
        "threads": settings.threads,
        "networks": measured,
        "compare": _compare_commands([by_name[row["bundle"]] for row in measured if row["fits"]], settings.budget_ms),
        "over_at_best": [
            {key: row[key] for key in ("bundle", "precision", "engine", "min_ms")}
            for row in sorted(over, key=lambda row: row["min_ms"])
        ],
        "not_built": list(not_built),
        "runs": [{key: value for key, value in run.items() if key != "bundles"} for run in runs],
    }


def _compare_commands(fitting: Sequence[Network], budget_ms: float) -> list[str]:
    """What trains what keeps the budget, largest size first: every model with the largest head that does at that size,
    but for those that do at a larger size as well."""
    commands, asked = [], set[tuple[str, str | None]]()
    for size in sorted({network.size for network in fitting}, reverse=True):
        largest = {network.model: network for network in networks(None, [size])[::-1] if network in fitting}
        more = [each for each in reversed(largest.values()) if (each.model, each.profile) not in asked]
        asked |= {(each.model, each.profile) for each in more}
        models = "".join(f" --model {':'.join(filter(None, (each.model, each.profile)))}" for each in more)
        if models:
            commands.append(
                f"segrd-compare PHOTOS --out compare-{size} --size {size} --latency-ms {budget_ms:g}{models}"
            )
    return commands


def _row(row: Mapping[str, Any], network: Network, budget_ms: float) -> dict[str, Any]:
    fits = row["p99_ms"] <= budget_ms
    return {
        **row,
        "model": network.model,
        "profile": network.profile,
        "fits": fits,
        "room_ms": round(budget_ms - row["p99_ms"], 3),
        "train": network.train_command,
    }


def _noise(size_hw: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size_hw, 3), np.uint8) for _ in range(_PICTURES)]


def _frame(image_bgr_u8: npt.NDArray[np.uint8]) -> CalibrationFrame:
    return CalibrationFrame(image_bgr_u8, Path("noise"), hashlib.sha256(image_bgr_u8.tobytes()).hexdigest(), "good")


def _manifest(
    network: Network, model: Any, preprocess: Preprocess, graphs: Mapping[Precision, ExportGraph]
) -> Manifest:
    """What a Detector needs; of training and photographs there is nothing to say."""
    threshold = {
        "value": _ABOVE_ALL_SCORES,
        "rule": "conformal",
        "false_reject": 0.0,
        "n_good": 0,
        "conformal": {"value": None, "guaranteed_rate": 1.0, "needed": 0},
        "tail": None,
        "histogram": {"edges": [0.0], "good": []},
        "statement": "untrained: every frame counts as good",
    }
    return Manifest.model_validate(
        {
            "product": network.name,
            "created": datetime.now(timezone.utc).replace(microsecond=0),
            "segrd_edge_version": __version__,
            "model": {
                "name": network.model,
                "backbone": "resnet18",
                "teacher": None,
                "parameters": sum(weights.numel() for weights in model.parameters()),
                "training": {"steps": 0, "seed": 0, "batch": 1, "minutes": None, "images": 0},
            },
            "data": {},
            "preprocess": preprocess.to_dict(),
            "map_spec": model.map_spec.to_dict(),
            "graphs": {name: {"file": graph_file(name), "opset": OPSET, "threshold": threshold} for name in graphs},
            "default_precision": "fp32",
            "golden": {"file": GOLDEN_FILE, "count": _PICTURES},
        }
    )
