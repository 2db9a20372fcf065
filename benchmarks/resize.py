"""What the resize costs: `Preprocess.resize` beside OpenCV's area averaging of the whole frame, and one in the engine.

    python -m segrd_edge.benchmarks.resize 1024x1024 2448x2048 --size 256 --threads 1

Frames are noise, because time does not depend on what they show. All take turns; the figures are the least of all
turns, which other programs cannot make smaller, and the largest difference of any pixel, in grey levels. In the engine
is what `export.frame_graph` puts in front of a network, for colour, run alone by OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from segrd_edge import machine
from segrd_edge.console import console, emit_json, json_option, new_table, parse_frame_size, print_table, run_command
from segrd_edge.preprocess import Preprocess

if TYPE_CHECKING:
    import onnx

_ENGINE_NEEDS = ("openvino", "onnx-graphsurgeon")  # the runtime alone has neither on every processor
FRAMES = ("1024x1024", "1920x1200", "2048x2048", "2448x2048", "2592x1944", "4096x3000")


def command(
    frames: Annotated[list[str] | None, typer.Argument(help="WIDTHxHEIGHT of frames.", show_default=False)] = None,
    size: Annotated[int, typer.Option(help="Network size.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="OpenCV's threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 30,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Time the resize of frames of several sizes."""
    kept = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        rows = [
            measure(parse_frame_size(frame), channels, size, rounds, threads)
            for frame in frames or FRAMES
            for channels in (3, 1)
        ]
    finally:
        cv2.setNumThreads(kept)
    table = new_table(
        f"resize to {size}×{size}, {threads} thread(s), ms",
        "frame",
        "plain",
        "segrd-edge",
        "in engine",
        "pixels differ",
    )
    for row in rows:
        kind = "colour" if row["channels"] == 3 else "grey"
        name = "{1}×{0}".format(*row["frame_hw"])
        times = ("–" if ms is None else f"{ms:.2f}" for ms in (row["plain_ms"], row["ours_ms"], row["engine_ms"]))
        table.add_row(f"{name} {kind}", *times, str(row["most_differing"]))
    print_table(table, as_json=json)
    if json:
        cpu = "{model}, {cores} cores".format(**machine.cpu())
        emit_json({"machine": cpu, "opencv": cv2.__version__, "threads": threads, "size": size, "rows": rows})
    else:
        console.print("{model}, {cores} cores".format(**machine.cpu()), markup=False)


def measure(frame_hw: tuple[int, int], channels: int, size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Least durations in ms, and how far the pixels of any are from plain's."""
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3)[: 2 + (channels == 3)], np.uint8)
    preprocess = Preprocess((size, size))

    def plain() -> Any:
        small = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        return small if channels == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)

    def ours() -> Any:
        return preprocess.resize(frame)

    ways = {"plain": plain, "ours": ours}
    if channels == 3 and all(machine.package_version(name) is not None for name in _ENGINE_NEEDS):
        ways["engine"] = _in_engine(frame, preprocess, threads)
    wanted = plain().astype(int)
    differing = max(int(np.abs(wanted - way()).max()) for way in ways.values())
    least = dict.fromkeys(ways, np.inf)
    for number in range(rounds):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            least[name] = min(least[name], _ms(way))
    return {
        "frame_hw": frame_hw,
        "channels": channels,
        **{
            f"{name}_ms": round(float(least[name]), 3) if name in ways else None for name in ("plain", "ours", "engine")
        },
        "most_differing": differing,
    }


def _in_engine(frame: npt.NDArray[np.uint8], preprocess: Preprocess, threads: int) -> Callable[[], Any]:
    """The resize of the frame graph, by OpenVINO; what it returns has the layout of an image."""
    import openvino

    from segrd_edge.export.frame_graph import build_frame_graph

    graph = build_frame_graph(_to_planes(preprocess.size_hw), preprocess, (frame.shape[0], frame.shape[1]))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", settings).create_infer_request()
    batch = frame[None]
    return lambda: request.infer([batch], share_inputs=True, share_outputs=True)[0][0].transpose(1, 2, 0)


def _to_planes(size_hw: Sequence[int]) -> onnx.ModelProto:
    """A deploy graph that is nothing but its beginning: uint8 pixels to float32 planes."""
    import onnx
    import onnx_graphsurgeon as gs

    from segrd_edge.calibration.graph import write_graph

    image = gs.Variable("image", np.uint8, (1, *size_hw, 3))
    pixels, planes = gs.Variable("pixels", np.float32), gs.Variable("planes", np.float32, (1, 3, *size_hw))
    given = gs.Node("Cast", "cast", {"to": onnx.TensorProto.FLOAT}, [image], [pixels])
    turned = gs.Node("Transpose", "transpose", {"perm": [0, 3, 1, 2]}, [pixels], [planes])
    # A graph may not have a tensor that is only passed through as its output, which is what is left here.
    output = gs.Variable("output", np.float32, (1, 3, *size_hw))
    graph = gs.Graph(
        [given, turned, gs.Node("Identity", "identity", {}, [planes], [output])], [image], [output], opset=19
    )
    return write_graph(graph)


def _ms(way: Callable[[], Any]) -> float:
    start = perf_counter()
    way()
    return (perf_counter() - start) * 1e3


if __name__ == "__main__":
    run_command(command, name="resize", example="python -m segrd_edge.benchmarks.resize 2448x2048")
