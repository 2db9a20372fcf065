"""What a bundle says about itself: schema version 1, checked by pydantic when it is written and when it is opened."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from .mapspec import MapSpec
from .preprocess import Preprocess

SCHEMA_VERSION: Literal[1] = 1
Precision = Literal["fp32", "fp16", "int8", "mixed"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file, lower-case hex")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]  # pixels
Rate = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Unknown fields are errors, values cannot change, and NaN or infinity is never written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TeacherRecord(Record):
    name: str = Field(description="name or file name of the teacher's weights")
    sha256: Sha256


class TrainingRecord(Record):
    steps: Count = Field(description="optimiser steps, all phases together")
    seed: int
    batch: int = Field(ge=1, description="images per step")
    minutes: float | None = Field(ge=0, description="wall-clock minutes of training, where known")
    images: Count = Field(description="good images trained on")


class ModelRecord(Record):
    name: str = Field(description="name in the model registry, for example destseg")
    backbone: str
    teacher: TeacherRecord | None
    parameters: Count = Field(description="number of weights in the exported graph")
    gmacs: float | None = Field(default=None, ge=0, description="10⁹ multiply-accumulates per image")
    training: TrainingRecord


class ConformalRecord(Record):
    """The distribution-free bound: what the number of good images can guarantee."""

    value: float | None = Field(description="threshold; None where there are too few good images")
    guaranteed_rate: Rate = Field(description="false rejects at `value`, or the least that this many images guarantee")
    needed: Count = Field(description="good images needed for the requested rate")


class TailRecord(Record):
    """The practical estimate: a tail fitted to the logits of the good scores."""

    value: float
    method: str
    exceedances: Count = Field(description="scores that the fit sees")
    shape: float
    scale: float = Field(description="in logits")


class HistogramRecord(Record):
    edges: list[float] = Field(description="anomaly scores between the bins, one more than bins")
    good: list[Count] = Field(description="good images per bin")
    defect: list[Count] | None = Field(default=None, description="defective images per bin, where given")

    @model_validator(mode="after")
    def _edges_enclose_bins(self) -> HistogramRecord:
        for counts in (self.good, self.defect):
            if counts is not None and len(self.edges) != len(counts) + 1:
                raise ValueError(f"{len(counts)} bins need {len(counts) + 1} edges, not {len(self.edges)}")
        return self


class ThresholdRecord(Record):
    """As `training.threshold.Threshold.to_dict()` gives it."""

    value: float = Field(description="anomaly score at or above which a frame is a defect")
    rule: Literal["conformal", "tail"] = Field(description="which of the two estimates `value` is")
    false_reject: Rate = Field(description="requested rate of good parts called defective")
    n_good: Count = Field(description="held-out good images that the estimates rest on")
    conformal: ConformalRecord
    tail: TailRecord | None
    escape_rate: Rate | None = Field(default=None, description="share of given defective images below `value`")
    n_defect: Count = Field(default=0, description="defective images given, only to state the escape rate")
    histogram: HistogramRecord
    statement: str = Field(default="", description="the same in a sentence")

    @property
    def is_above_all(self) -> bool:
        """Whether `value` must lie above every held-out score: a share of so few images is less than one of them."""
        return self.false_reject * (self.n_good + 1) < 2


class NodeReason(Record):
    node: str
    reason: str


class VerdictChangesRecord(Record):
    """Frames whose verdict is not that of fp32, each graph with its own threshold."""

    held_out: Count = Field(description="of the held-out good images that set the thresholds")
    held_out_frames: Count
    test: Count | None = Field(description="of the frames that the metrics come from, where there are any")
    test_frames: Count | None
    test_source: str | None = Field(description="where those come from")


class GraphRecord(Record):
    file: str = Field(description="member of the bundle, for example graphs/int8.onnx")
    opset: int = Field(ge=1)
    batch: int = Field(default=1, ge=1, description="items that the graph takes at once, never fewer or more")
    frame_hw: tuple[Size, Size] | None = Field(
        default=None,
        description="height and width of the frames that the graph takes and resizes itself; None: network images",
    )
    parity: dict[str, float] | None = Field(
        default=None,
        description="largest absolute difference on the golden images, by output: of fp32 from the torch model, of the "
        "others from fp32",
    )
    drift: dict[str, float] | None = Field(
        default=None, description="differences from fp32 on the calibration frames, as calibration.drift.Drift has them"
    )
    is_safe: bool | None = Field(
        default=None,
        description="of a graph with INT8: whether `drift` keeps within calibration's limits, so that a runtime may "
        "choose it by itself",
    )
    kept_fp32: list[NodeReason] = Field(
        default=[], description="of a graph with float16 layers, the floating-point nodes that keep float32, and why"
    )
    threshold: ThresholdRecord
    metrics: dict[str, JsonValue] | None = Field(
        default=None,
        description="metrics, and what they come from: `source` is test photographs, or synthetic defects on held-out "
        "good images",
    )
    verdict_changes: VerdictChangesRecord | None = Field(default=None, description="of every graph but fp32")


class CalibrationFrame(Record):
    file: str
    sha256: Sha256
    pixels_sha256: Sha256 | None = Field(
        default=None, description="of the frame at network size, with its defect: h×w×3 bytes, B G R"
    )
    kind: Literal["good", "synthetic"] = Field(description="synthetic: a good image with a generated defect")
    defect: str | None = Field(default=None, description="which generator made it, for example perlin")


class SensitivityRecord(Record):
    """What one block of the network does to the results when it alone runs in INT8."""

    block: str
    nodes: list[str] = Field(description="its convolutions")
    macs: Count = Field(description="their multiply-accumulates per image")
    drift: dict[str, float] = Field(description="as calibration.drift.Drift has it, on some of the frames")
    two_term_drift: dict[str, float] | None = Field(
        default=None, description="the same in two terms, of a block that was tried in them"
    )


class FineTuningRecord(Record):
    """A fine-tune with INT8 in the loop; drifts are from the float graph of the network before it."""

    minutes: float = Field(gt=0)
    steps: Count
    before: dict[str, float] = Field(
        description="drift of the INT8 graph without it, as calibration.drift.Drift has it"
    )
    after: dict[str, float] = Field(description="drift of the INT8 graph with it")
    is_taken: bool = Field(description="whether the bundle's INT8 graph is the one with it")


class SecondTryRecord(Record):
    """A second calibration, because the first one turned too many verdicts; see export.second_try."""

    score_shift: float = Field(ge=0, description="mean |Δscore| that it was allowed")
    frames: Count = Field(description="test images; held-out ones where there are none")
    turned_before: Count = Field(description="verdicts of these that the first one turned")
    turned: Count = Field(description="and the second")
    speedup: float = Field(gt=0, description="fp32's time over the second's, by its work")
    is_safe: bool = Field(description="whether the second keeps to all limits")
    is_taken: bool = Field(description="whether the bundle's INT8 graph is the second")


class CalibrationRecord(Record):
    method: str = Field(description="how ranges became scales, for example percentile")
    percentile: float | None = Field(default=None, gt=0, le=100)
    tensor_methods: dict[str, str] = Field(
        default={}, description="where the method is per-tensor: activation → the method that its scale comes from"
    )
    method_trials: dict[str, dict[str, float]] = Field(
        default={},
        description="where the method was chosen: how far everything in INT8 is from float with each, on some frames",
    )
    equalised: list[str] = Field(description="activations whose channels were levelled")
    unclipped: list[str] = Field(
        default=[], description="activations of which no method clips anything: those, and others that the head reads"
    )
    scope: str = Field(description="which part of the network INT8 covers")
    drift: dict[str, dict[str, float]] = Field(
        description="for each scope tried, how far its results on the calibration frames are from float"
    )
    drift_by_method: dict[str, dict[str, float]] = Field(
        default={}, description="the same of what was exported, by the method that finds the scales; `method` is first"
    )
    metrics_by_method: dict[str, dict[str, float | None]] = Field(
        default={},
        description="image AUROC, pixel AP and AU-PRO of the same plan by the other methods, on the images that the "
        "graphs' metrics come from",
    )
    budget: dict[str, float] = Field(
        default={}, description="limits of the drift and of the speed-up, as calibration.budget.Budget has them"
    )
    int8_share: Rate | None = Field(default=None, description="of the multiply-accumulates that run in INT8")
    two_term_share: Rate = Field(default=0.0, description="the part of these that runs in two terms, computed twice")
    speedup: float | None = Field(
        default=None, gt=0, description="fp32's time over INT8's as measured, where one was asked for and in reach"
    )
    sensitivity: list[SensitivityRecord] = Field(
        default=[], description="of every block of what may run in INT8, whatever the plan has there"
    )
    improved: list[str] = Field(default=[], description="what was done to the weights: rounding, levels, bias")
    fine_tuning: FineTuningRecord | None = Field(default=None, description="where one was asked for")
    second_try: SecondTryRecord | None = Field(default=None, description="where the first one turned too many verdicts")
    frames: list[CalibrationFrame]
    quantised: list[str] = Field(description="nodes that run in INT8")
    two_term: list[NodeReason] = Field(
        default=[], description="those of them whose input is the sum of two INT8 tensors, and why"
    )
    float_skips: bool = Field(default=False, description="whether what skips residual blocks stays in float")
    left_float: list[NodeReason] = Field(description="the other convolutions")


class GoldenRecord(Record):
    file: str
    count: int = Field(
        ge=1,
        description="network images stored with the outputs they must give; a graph that takes frames is given "
        "segrd_edge.selftest.golden_frame of them",
    )


class LatencyRecord(Record):
    """How long whole inspections took where the bundle was exported, against the budget that was asked for."""

    budget_ms: float = Field(gt=0, description="from a frame's bytes to the verdict, at p99")
    frame_hw: tuple[Size, Size] = Field(description="height and width of the frame")
    threads: int | None = Field(ge=1, description="processor threads of the engine; None: its own choice")
    engines: dict[Precision, str] = Field(description="the fastest here for each precision, with its version")
    machine: str
    samples: Count = Field(description="inspections with each precision")
    p50_ms: dict[Precision, float]
    p99_ms: dict[Precision, float]
    sentences: list[str] = Field(description="what was chosen, and what the other steps cost")


class LeanEngineRecord(Record):
    """A ready TensorRT engine that travels in the bundle, for machines with the lean runtime alone.

    It runs on the kind of machine that it was built on and on no other; a runtime compares before it loads the plan.
    """

    precision: Precision
    file: str = Field(description="member of the bundle, for example engines/tensorrt-mixed.plan")
    plan_sha256: Sha256
    graph_sha256: Sha256 = Field(description="of the graph that it was built from")
    version: str = Field(description="of TensorRT, whole; the lean runtime must be the same")
    gpu: str
    compute_capability: str
    driver: str = Field(description="that it was built and tested with; another one may run it")
    os: str
    architecture: str
    holds_host_code: bool = Field(description="whether it carries a copy of the lean runtime, which is executed")
    self_test: dict[str, JsonValue] = Field(description="what it gave on the golden images where it was built")


class Manifest(Record):
    """manifest.json of a bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    product: str = Field(description="name of the part that is inspected")
    created: AwareDatetime = Field(description="when the bundle was exported, UTC")
    segrd_edge_version: str
    model: ModelRecord
    data: dict[str, JsonValue] = Field(description="what the data set held: image counts by kind")
    preprocess: dict[str, Any] = Field(description="segrd_edge.Preprocess.to_dict()")
    map_spec: dict[str, Any] = Field(description="segrd_edge.mapspec.MapSpec.to_dict()")
    graphs: dict[Precision, GraphRecord] = Field(min_length=1)
    default_precision: Precision = Field(
        description="the graph for the engines of a processor, fp32 or, where calibration passed its limits, int8. "
        "TensorRT chooses between fp16 and mixed on the device, by its self-test and by time, and takes INT8 into "
        "account only where this is int8 and the graph in question is safe"
    )
    calibration: CalibrationRecord | None = Field(default=None, description="present when there is an INT8 graph")
    golden: GoldenRecord
    latency: LatencyRecord | None = Field(default=None, description="where segrd-export was given a --budget")
    lean_engines: list[LeanEngineRecord] = Field(default=[], description="ready engines, the preferred one first")

    @property
    def files(self) -> list[str]:
        """Every member that is named here."""
        graphs = [graph.file for graph in self.graphs.values()]
        return [*graphs, self.golden.file, *(engine.file for engine in self.lean_engines)]

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime) -> datetime:
        offset = created.utcoffset()
        if offset is None or offset.total_seconds():
            raise ValueError("must be in UTC: datetime.now(timezone.utc)")
        return created

    @field_validator("preprocess", mode="before")
    @classmethod
    def _is_preprocess(cls, values: Any) -> dict[str, Any]:
        return _round_trip(Preprocess.from_dict, values)

    @field_validator("map_spec", mode="before")
    @classmethod
    def _is_map_spec(cls, values: Any) -> dict[str, Any]:
        return _round_trip(lambda fields: MapSpec(**fields), values)

    @model_validator(mode="after")
    def _has_default_graph(self) -> Manifest:
        if self.default_precision not in self.graphs:
            raise ValueError(f"default_precision {self.default_precision} has no graph; there is {list(self.graphs)}")
        return self

    def to_json(self) -> bytes:
        """The bytes of manifest.json."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def _round_trip(build: Any, values: Any) -> dict[str, Any]:
    """`values` as the dataclass writes them, refused where the dataclass refuses them."""
    try:
        fields: dict[str, Any] = build(values).to_dict()
    except (TypeError, AttributeError) as error:  # pydantic reports ValueError only
        raise ValueError(str(error)) from error
    return fields
