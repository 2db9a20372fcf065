# syntax=docker/dockerfile:1
# segrd-edge on a CPU: OpenVINO on x86-64, ONNX Runtime elsewhere. From the top of the checkout:
#   docker build -f docker/cpu.Dockerfile -t segrd-edge:cpu .

FROM python:3.12-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY segrd_edge segrd_edge
COPY training training
COPY calibration calibration
COPY export export
COPY benchmarks benchmarks
RUN python -m venv /opt/segrd \
 && /opt/segrd/bin/pip install --no-cache-dir -c constraints.txt .

# The same base image, because a virtual environment needs the Python that made it.
FROM python:3.12-slim-trixie
RUN useradd --uid 10001 --groups video --create-home segrd \
 && install -d -o segrd -g segrd /results /cache
COPY --from=build /opt/segrd /opt/segrd
ENV PATH=/opt/segrd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache
USER 10001
WORKDIR /results
# The engine that a Detector takes here computes a small graph. Every quarter of an hour, because that runs on the
# processor that also inspects.
HEALTHCHECK --interval=15m --timeout=2m --start-period=1m --retries=2 CMD ["segrd-doctor", "--engine", "auto"]
CMD ["segrd-doctor"]
