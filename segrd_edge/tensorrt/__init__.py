"""TensorRT and TensorRT-RTX: engines built on the device from a bundle's ONNX graph.

    library   imports a flavour, or says what is missing
    driver    the NVIDIA driver and the GPU, asked before any TensorRT object exists
    log       what TensorRT says while it works
    advice    what its log lines mean and what to do
    progress  of a build, and how to cancel it
    layers    what the compiler made of each ONNX node
    build     ONNX graph → engine plan
    plan      engine plan → engine, on the GPU
    store     files with sealed records
    cache     plans and timing caches in the user's cache folder

Nothing here imports TensorRT before it is used, and no module compares version strings: the API is asked what it has.
"""
