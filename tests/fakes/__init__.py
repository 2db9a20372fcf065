"""A GPU for tests, in the place of pycuda, cuda-bindings and TensorRT. `gpu.install` puts it there.

It computes: a plan is the ONNX graph it was built from, run by ONNX Runtime on the memory behind the device pointers.
And it refuses what the real ones refuse: freed memory, destroyed objects, a thread without a context, a synchronisation
during capture. tests/contract holds its names and parameters to the real packages. What it cannot show is what a GPU
computes and how long that takes.
"""
