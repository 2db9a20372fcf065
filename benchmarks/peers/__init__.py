"""Our Detector beside other people's inference, on the same frames in one interleaved run.

    python -m segrd_edge.benchmarks.peers bottle.segrd --venv venvs/peers --run runs/bottle --out peers/bottle.json

Peers are the models of anomalib that resemble ours, through its `OpenVINOInferencer`, and as the floor plain OpenVINO
and plain ONNX Runtime on our own graph. anomalib is installed into a Python of its own and runs there, a process per
model, which times itself: nothing of the way between the processes is measured. Its networks are untrained, which
changes no duration; how accurate they are says its own documentation, and nothing here.
"""
