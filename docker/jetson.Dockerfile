# syntax=docker/dockerfile:1
# segrd-edge on a Jetson: JETPACK=6 (Orin) or 7 (Orin and Thor, from 7.2). On the Jetson, from the top of the checkout:
#   docker build -f docker/jetson.Dockerfile --build-arg JETPACK=6 -t segrd-edge:jetson .
#   docker run --rm --runtime nvidia -v segrd-cache:/cache -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro segrd-edge:jetson
# The first volume keeps the engines that are built on this machine; the second says which L4T it has.
#
# Nothing here imports TensorRT: while an image is built, the NVIDIA runtime has not yet put libnvdla_compiler.so there.

ARG JETPACK=7

# JetPack 6: TensorRT 10.3, CUDA 12.6, Python 3.10.
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel AS build-jetpack6
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime AS runtime-jetpack6

# JetPack 7: TensorRT 10.16, CUDA 13.2, Python 3.12. There is no L4T image for it; it runs NVIDIA's containers for Arm.
FROM nvcr.io/nvidia/tensorrt:26.05-py3 AS build-jetpack7
FROM nvcr.io/nvidia/tensorrt:26.05-py3 AS runtime-jetpack7

# hadolint ignore=DL3006  # a stage from above, which has its tag
FROM build-jetpack${JETPACK} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE docker/gpu-requirements.txt ./
COPY segrd_edge segrd_edge
COPY training training
COPY calibration calibration
COPY export export
COPY benchmarks benchmarks
# With the system's packages in sight, because that is where the base image keeps TensorRT. The exact versions of
# constraints.txt are for Python 3.11 and later; on JetPack 6 (Python 3.10) pip takes the newest that pyproject.toml allows.
RUN python3 -m venv --system-site-packages /opt/segrd \
 && touch none.txt \
 && versions="$(python3 -c 'import sys; print("constraints.txt" if sys.version_info >= (3, 11) else "none.txt")')" \
 && /opt/segrd/bin/pip install --no-cache-dir -c "$versions" . -r gpu-requirements.txt

# hadolint ignore=DL3006  # a stage from above, which has its tag
FROM runtime-jetpack${JETPACK}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --groups video --create-home segrd \
 && install -d -o segrd -g segrd /results /cache
COPY --from=build /opt/segrd /opt/segrd
ENV PATH=/opt/segrd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache
USER 10001
WORKDIR /results
# The base image's entry point prints a page of notices.
ENTRYPOINT []
# TensorRT itself has to compute a small graph: that the CPU's engine would is no comfort here. The first time, an engine
# is built for it. Every quarter of an hour, because that runs on the GPU that also inspects.
HEALTHCHECK --interval=15m --timeout=6m --start-period=6m --retries=2 CMD ["segrd-doctor", "--engine", "tensorrt"]
CMD ["segrd-doctor"]
