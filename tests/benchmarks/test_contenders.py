from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segrd_edge import Bundle
from segrd_edge.benchmarks.contenders import Wanted, choose


def test_a_precision_that_does_not_suit_an_engine_is_measured_only_where_asked_for(
    make_bundle: Callable[..., Path],
    deploy_graph: Callable[..., bytes],
    manifest_fields: Callable[..., dict[str, dict[str, dict[str, str]]]],
    tmp_path: Path,
) -> None:
    records = manifest_fields()["graphs"]
    records["fp16"] = {**records["fp32"], "file": "graphs/fp16.onnx"}
    graphs = {"fp32": deploy_graph(), "int8": deploy_graph(int8=True), "fp16": deploy_graph()}
    bundle = Bundle.open(make_bundle(tmp_path / "part.segrd", graphs=graphs, records=records))
    engines = ["openvino", "onnxruntime"]
    both = [Wanted(engine, precision) for precision in ("fp32", "int8") for engine in engines]
    assert choose(bundle, engines, None) == both
    assert choose(bundle, engines, ["fp16"]) == [Wanted(engine, "fp16") for engine in engines]
