"""The resize inside the graph against `Preprocess.resize`, the resize on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.graph import OPSET, expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.session import run_graph
from segrd_edge.detector import Detector
from segrd_edge.errors import ExportError, FrameError, OptionError
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.frame_graph import BLOCK_ROWS, axis_weights, build_frame_graph, repeating_block
from segrd_edge.export.onnx import PLAIN_OPS
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.build import build

SIGMOID = MapSpec("sigmoid", 0, 100)
Frame = npt.NDArray[np.uint8]


def pixels_graph(size_hw: tuple[int, int], batch: int = 1) -> onnx.ModelProto:
    """A deploy graph that gives nothing but the planes that its network would see."""
    image, pixels = gs.Variable("image", np.uint8, (batch, *size_hw, 3)), gs.Variable("pixels", np.float32)
    planes, seen = (gs.Variable(name, np.float32, (batch, 3, *size_hw)) for name in ("planes", "seen"))
    nodes = [
        gs.Node("Cast", "cast", {"to": onnx.TensorProto.FLOAT}, [image], [pixels]),
        gs.Node("Transpose", "transpose", {"perm": [0, 3, 1, 2]}, [pixels], [planes]),
        gs.Node("Identity", "see", {}, [planes], [seen]),
    ]
    return write_graph(gs.Graph(nodes, [image], [seen], opset=OPSET))


def run(graph: onnx.ModelProto, outputs: list[str], *batch: Frame) -> list[npt.NDArray[Any]]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {"frame": np.stack(batch)})


def frames(frame_hw: tuple[int, int]) -> dict[str, Frame]:
    """What a resize can get wrong: noise, extremes, stripes finer than a network pixel, an edge, a gradient."""
    rows, columns = np.mgrid[: frame_hw[0], : frame_hw[1]]
    planes = {
        "noise": np.random.default_rng(0).integers(0, 256, frame_hw),
        "black": np.zeros(frame_hw),
        "white": np.full(frame_hw, 255),
        "checkerboard": (rows + columns) % 2 * 255,
        "stripes": columns // 3 % 2 * 255,
        "edge": (rows * 2 > columns) * 255,
        "gradient": rows * 255 // frame_hw[0],
    }
    # three different channels, so that a swapped one shows
    return {
        name: np.stack([p, p[::-1], 255 - p[:, ::-1]], axis=2).astype(np.uint8)[: frame_hw[0]]
        for name, p in planes.items()
    }


@pytest.mark.parametrize(
    ("size_hw", "fit", "frame_hw"),
    [
        ((64, 64), "stretch", (512, 640)),  # whole factors
        ((64, 96), "stretch", (64, 200)),  # one axis is right already
        ((64, 96), "stretch", (200, 96)),
        ((64, 96), "stretch", (64, 96)),  # both are
        ((64, 96), "stretch", (211, 307)),  # prime sizes
        ((64, 96), "stretch", (65, 97)),  # barely shrinking
        ((64, 96), "stretch", (37, 51)),  # growing
        ((64, 96), "stretch", (300, 40)),  # shrinks in height, grows in width
        ((64, 96), "stretch", (40, 300)),
        ((64, 96), "stretch", (1, 1)),
        ((64, 96), "letterbox", (400, 500)),  # border left and right
        ((96, 64), "letterbox", (410, 411)),  # border above and below, unequal
        ((64, 96), "letterbox", (320, 480)),  # no border
        ((64, 64), "letterbox", (640, 33)),  # portrait
        ((64, 96), "letterbox", (20, 21)),  # growing
        ((64, 96), "letterbox", (3, 700)),  # one row of pixels
    ],
)
def test_every_pixel_is_within_one_grey_level_of_the_cpu(
    size_hw: tuple[int, int], fit: Any, frame_hw: tuple[int, int]
) -> None:
    preprocess = Preprocess(size_hw, fit=fit, fill=31)
    graph = build_frame_graph(pixels_graph(size_hw), preprocess, frame_hw)
    place = preprocess.placement(frame_hw)
    for name, frame in frames(frame_hw).items():
        wanted = preprocess.resize(frame).transpose(2, 0, 1).astype(np.float32)
        (got,) = run(graph, ["seen"], frame)
        assert got.shape == (1, 3, *size_hw)
        assert np.abs(got[0] - wanted).max() <= 1, name
        np.testing.assert_array_equal(got, np.rint(got))
        border = np.ones(size_hw, bool)
        place.covered(border)[...] = False
        assert (got[0][:, border] == 31).all()


@pytest.mark.parametrize(("fit", "frame_hw"), [("stretch", (2048, 2448)), ("letterbox", (2048, 2448))])
def test_a_five_megapixel_frame(fit: Any, frame_hw: tuple[int, int]) -> None:
    preprocess = Preprocess((64, 96), fit=fit)
    graph = build_frame_graph(pixels_graph((64, 96)), preprocess, frame_hw)
    # Rows of a ramp, so that the levels spread over the whole range, which means of pure noise do not
    ramp = np.linspace(0, 200, frame_hw[1])[None, :, None] + np.random.default_rng(4).integers(0, 56, (*frame_hw, 3))
    frame = ramp.astype(np.uint8)
    wanted = preprocess.resize(frame).transpose(2, 0, 1).astype(np.float32)
    difference = np.abs(run(graph, ["seen"], frame)[0][0] - wanted)
    assert difference.max() <= 1
    # Measured: 0.0003 (stretch) and none. A kernel of another shape moves far more than a hundredth of the pixels.
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize(
    ("frame_hw", "crop_xywh"),
    [
        ((211, 307), (100, 8, 192, 128)),  # even offsets, whole factors
        ((211, 307), (33, 7, 201, 173)),  # odd everything
        ((211, 307), (0, 0, 97, 211)),  # the left edge, full height
        ((211, 307), (210, 210, 97, 1)),  # one row in the lower right corner
        ((211, 307), (0, 11, 307, 65)),  # full width
        ((211, 307), (5, 6, 96, 64)),  # network size already: nothing but the crop
        ((64, 96), (0, 0, 96, 64)),  # all of the frame
        ((70, 99), (3, 3, 41, 37)),  # growing
    ],
)
def test_the_crop_is_cut_before_the_resize(
    fit: Any, frame_hw: tuple[int, int], crop_xywh: tuple[int, int, int, int]
) -> None:
    preprocess = Preprocess((64, 96), fit=fit, fill=31, crop_xywh=crop_xywh)
    graph = build_frame_graph(pixels_graph((64, 96)), preprocess, frame_hw)
    cuts = [node for node in graph.graph.node if node.op_type == "Slice"]
    assert len(cuts) == (crop_xywh[2:] != frame_hw[::-1])
    for name, frame in frames(frame_hw).items():
        wanted = preprocess.resize(frame).transpose(2, 0, 1)
        (got,) = run(graph, ["seen"], frame)
        assert np.abs(got[0] - wanted).max() <= 1, name
        np.testing.assert_array_equal(got, np.rint(got))


@pytest.mark.parametrize("crop_xywh", [None, (33, 7, 201, 173), (100, 8, 192, 128)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_every_frame_of_a_batch_gives_what_it_gives_alone(fit: Any, crop_xywh: Any) -> None:
    preprocess, frame_hw = Preprocess((64, 96), fit=fit, crop_xywh=crop_xywh), (256, 307)
    names = ("noise", "stripes", "gradient")
    batch = [frames(frame_hw)[name] for name in names]
    graph = build_frame_graph(pixels_graph((64, 96), len(batch)), preprocess, frame_hw)
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [3, *frame_hw, 3]
    (together,) = run(graph, ["seen"], *batch)
    one = build_frame_graph(pixels_graph((64, 96)), preprocess, frame_hw)
    for got, frame in zip(together, batch, strict=True):
        np.testing.assert_array_equal(got, run(one, ["seen"], frame)[0][0])


def test_a_detector_that_crops_in_the_graph_says_what_one_that_crops_on_the_cpu_says(
    deploy_graph: Callable[..., bytes], make_bundle: Callable[..., Path], tmp_path: Path, painter: Callable[..., Frame]
) -> None:
    preprocess, frame_hw = Preprocess((64, 96), crop_xywh=(101, 51, 181, 121)), (300, 401)
    deploy = in_planes(onnx.load_from_string(deploy_graph()))
    graphs = {"cpu": deploy, "graph": build_frame_graph(deploy, preprocess, frame_hw)}
    paths = [
        make_bundle(
            tmp_path / f"{name}.segrd", graphs={"fp32": graph.SerializeToString()}, default_precision="fp32",
            calibration=None, preprocess=preprocess.to_dict(),
        )
        for name, graph in graphs.items()
    ]  # fmt: skip
    frame = painter(frame_hw, (150, 90, 31, 20), (0, 0, 90, 300))
    with Detector(paths[0]) as resizing, Detector(paths[1]) as whole:
        assert (resizing.takes_frames, whole.takes_frames) == (False, True)
        whole.self_test()
        wanted, found = resizing.inspect(frame), whole.inspect(frame)
    assert found.regions == wanted.regions
    assert [abs(region.box_xywh[0] - 150) <= 2 for region in found.regions] == [True]
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, atol=1 / 255)
    np.testing.assert_array_equal(found.map_in_frame() > 0, wanted.map_in_frame() > 0)


def in_planes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The test detector's graph, which computes on pixels, behind the Transpose that real deploy graphs begin with."""
    cast, *others = model.graph.node
    there = onnx.helper.make_node("Transpose", list(cast.output), ["planes"], "there", perm=[0, 3, 1, 2])
    back = onnx.helper.make_node("Transpose", ["planes"], ["pixels again"], "back", perm=[0, 2, 3, 1])
    others[0].input[0] = "pixels again"
    del model.graph.node[:]
    model.graph.node.extend([cast, there, back, *others])
    return model


@pytest.mark.parametrize(("source", "target"), [(2048, 256), (2448, 256), (211, 64), (96, 64), (37, 64), (1, 32)])
def test_one_repeated_block_is_the_whole_kernel(source: int, target: int) -> None:
    repeats, block = repeating_block(source, target)
    whole = np.kron(np.eye(repeats), block)
    np.testing.assert_allclose(whole, axis_weights(source, target), atol=1e-7)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert repeats == {2048: 16, 2448: 16, 96: 4}.get(source, 1)
    assert repeats == 1 or len(block) >= BLOCK_ROWS


@pytest.fixture(params=["fp32", "int8"])
def deploy(request: pytest.FixtureRequest, one_conv: Callable[[MapSpec], Any]) -> onnx.ModelProto:
    """A deploy graph of 64×96; the INT8 one is DeSTSeg with an INT8 head."""
    spec = MapSpec("none", 0, 100)  # without the sigmoid, which random logits of ±10 would saturate
    if request.param == "fp32":
        return build_deploy_graph(one_conv(spec).core((64, 96)), Preprocess((64, 96)), spec)
    model = build_deploy_graph(request.getfixturevalue("destseg_core"), Preprocess((64, 96)), spec)
    plan = Plan.of(model).only("head.")
    images = request.getfixturevalue("images")[:1]
    return quantise(model, to_ranges(observe(model, tensors_to_calibrate(model, plan), images).histograms, "max"), plan)


def test_score_and_map_are_those_of_resize_and_deploy_graph(deploy: onnx.ModelProto, images: list[Frame]) -> None:
    preprocess = Preprocess((64, 96), fit="letterbox")
    frame = np.kron(images[0], np.ones((5, 4, 1), np.uint8))  # 320×384: 64 rows by a whole factor, 77 columns not
    graph = build_frame_graph(deploy, preprocess, (320, 384))
    assert violations(graph) == []
    names = ["score", "anomaly_map", "frame.border.out"]
    score, anomaly_map, planes = run(expose(graph, names[2:]), names, frame)
    own, cpu = planes[0].transpose(1, 2, 0).astype(np.uint8), preprocess.resize(frame)
    (same_score, same_map), (cpu_score, cpu_map) = run_graph(deploy, names[:2], [own, cpu])
    np.testing.assert_allclose(anomaly_map, same_map, atol=1e-4)
    np.testing.assert_allclose(score, same_score, atol=1e-4)
    # Of the CPU's pixels 0.5 % are one grey level off. Measured: correlation 0.999998, score 0.0003 of the largest
    # value; INT8, which may round neighbours apart and random weights amplify it, 0.9966 and 0.0055.
    assert np.corrcoef(anomaly_map.reshape(-1), cpu_map.reshape(-1))[0, 1] > 0.99
    assert abs(score[0] - cpu_score[0]) < 0.02 * np.abs(cpu_map).max()


def test_ports_names_and_ops(one_conv: Callable[[MapSpec], Any]) -> None:
    preprocess = Preprocess((64, 96), fit="letterbox")
    deploy = build_deploy_graph(one_conv(SIGMOID).core((64, 96)), preprocess, SIGMOID)
    before = deploy.SerializeToString()
    graph = read_graph(build_frame_graph(deploy, preprocess, (300, 200)))
    assert [(t.name, t.dtype, list(t.shape)) for t in graph.inputs] == [("frame", np.uint8, [1, 300, 200, 3])]
    assert [t.name for t in graph.outputs] == ["score", "anomaly_map"]
    assert {node.op for node in graph.nodes} <= PLAIN_OPS | {"Round"}
    new = [node.name for node in graph.nodes if node.name.startswith("frame.")]
    assert len(new) == 10
    assert {node.name for node in graph.nodes} - set(new) == {
        node.name for node in deploy.graph.node if node.name not in ("deploy.cast", "deploy.planes")
    }
    assert deploy.SerializeToString() == before


def test_what_does_not_fit_is_refused(one_conv: Callable[[MapSpec], Any]) -> None:
    preprocess = Preprocess((64, 96))
    core = one_conv(SIGMOID).core((64, 96))
    deploy = build_deploy_graph(core, preprocess, SIGMOID)
    with pytest.raises(OptionError, match="frame size 0x200 cannot be used"):
        build_frame_graph(deploy, preprocess, (0, 200))
    with pytest.raises(ExportError, match=r"takes uint8 \[1, 64, 96, 3\]"):
        build_frame_graph(deploy, Preprocess((96, 64)), (300, 200))
    with pytest.raises(ExportError, match=r"takes float32 \[1, 3, 64, 96\]"):
        build_frame_graph(core, preprocess, (300, 200))
    with pytest.raises(ExportError, match=r"takes uint8 \[1, 300, 200, 3\]"):  # twice
        build_frame_graph(build_frame_graph(deploy, preprocess, (300, 200)), preprocess, (300, 200))
    with pytest.raises(FrameError, match="200×300 pixels, which the crop 10,0,200,300"):
        build_frame_graph(deploy, Preprocess((64, 96), crop_xywh=(10, 0, 200, 300)), (300, 200))
    deploy.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(ExportError, match=r"takes uint8 \['n', 64, 96, 3\]"):
        build_frame_graph(deploy, preprocess, (300, 200))


@pytest.mark.parametrize(
    ("batch", "fit", "frame_hw", "crop_xywh"),
    [
        (1, "stretch", (2048, 2448), None),
        (1, "letterbox", (211, 40), None),
        (3, "letterbox", (2048, 2448), (100, 8, 1800, 1792)),
        (2, "stretch", (211, 307), (33, 7, 201, 173)),
    ],
)
def test_tensorrt_rtx_builds_it(batch: int, fit: Any, frame_hw: tuple[int, int], crop_xywh: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    preprocess = Preprocess((64, 96), fit=fit, crop_xywh=crop_xywh)
    graph = build_frame_graph(pixels_graph((64, 96), batch), preprocess, frame_hw)
    built = build(graph.SerializeToString(), flavour="tensorrt-rtx")
    assert built.warnings == ()
    first = built.layers[0]
    assert first.input_dtypes == ("UInt8",)
    assert ("frame.crop" in first.onnx_nodes) == (crop_xywh is not None)  # one kernel: no whole frame is written
