"""Our INT8 beside that of other tools: the same float graph, the same calibration frames, each with its own defaults.

    python -m segrd_edge.benchmarks.quantisers RUN --modelopt-python PATH --nncf-python PATH --out bottle.json

Of every file: accuracy and verdicts on the real test images, latency in each engine, size, the seconds it took, and
whether TensorRT takes it. The tools may live in a Python of their own, since modelopt pins old onnx and onnxruntime.
"""
