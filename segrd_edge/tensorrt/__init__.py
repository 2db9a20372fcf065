"""TensorRT and TensorRT-RTX: engines built on the device from a bundle's ONNX graph.

    support       which TensorRT runs on which machine, as data
    library       imports a flavour, or says what is missing
    driver        the NVIDIA driver and the GPUs, asked before any TensorRT object exists
    requirements  what an engine needs of a machine, each lack with its fix
    clocks        of processor and GPU; jetson, smi: what a Jetson and a PC's card say of themselves
    facts         all of that, for segrd-doctor

    log           what TensorRT says while it works
    advice        what its log lines mean and what to do
    progress      of a build, and how to cancel it
    layers        what the compiler made of each ONNX node
    build         ONNX graph → engine plan
    plan          engine plan → engine, on the GPU
    cache         plans and timing caches in the user's cache folder
    prepare       bundle → built, loaded and self-tested engine
    timing        which of several engines is the faster one
    choose        what precision="auto" takes, and why
    lean          engines that a bundle carries, for machines with the lean runtime alone
    run_once      one run of a plan with whatever outputs it has
    by_hand       the same by NVIDIA's own tools, as command lines

Nothing here imports TensorRT before it is used, and no module compares version strings: the API is asked what it has.
"""
