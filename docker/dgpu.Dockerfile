# syntax=docker/dockerfile:1
# segrd-edge on a PC with an NVIDIA card: NVIDIA's TensorRT container and the runtime. From the top of the checkout:
#   docker build -f docker/dgpu.Dockerfile -t segrd-edge:dgpu .
#   docker run --rm --gpus all -v segrd-cache:/cache segrd-edge:dgpu
# The volume keeps the engines that are built on this machine.

# 26.08 holds TensorRT 11.2.1.2 and CUDA 13.3. An engine belongs to the TensorRT that built it: a new tag builds anew.
ARG TENSORRT_TAG=26.08-py3

FROM nvcr.io/nvidia/tensorrt:${TENSORRT_TAG} AS build
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
# With the system's packages in sight, because that is where the base image keeps TensorRT.
RUN python3 -m venv --system-site-packages /opt/segrd \
 && /opt/segrd/bin/pip install --no-cache-dir -c constraints.txt . -r gpu-requirements.txt

FROM nvcr.io/nvidia/tensorrt:${TENSORRT_TAG}
RUN useradd --uid 10001 --groups video --create-home segrd \
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
