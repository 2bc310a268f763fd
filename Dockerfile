# syntax=docker/dockerfile:1
# Two images.
#   docker build --target train -t pneumonia .         docker run --gpus all -v "$PWD/runs:/work/runs" pneumonia train
#   docker build --target serve -t pneumonia-serve .   docker run --read-only --tmpfs /tmp -p 8080:8080 -v "$PWD/bundle:/opt/ml/model:ro" pneumonia-serve
FROM python:3.11-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

FROM base AS build
RUN python -m pip install "uv>=0.9,<1"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pneumonia pneumonia
COPY conf conf
COPY sweeps sweeps
RUN uv build --wheel --out-dir /wheels

FROM build AS serving
COPY requirements-serve.lock ./
RUN uv venv --python /usr/local/bin/python /opt/pneumonia \
    && uv pip install --no-cache --python /opt/pneumonia --require-hashes -r requirements-serve.lock \
    && uv pip install --no-cache --python /opt/pneumonia --no-deps /wheels/*.whl
# The packages' own tests are left out. What every start reads is compiled, since the image can't be written later.
WORKDIR /opt/pneumonia/lib/python3.11/site-packages
RUN find . -type d -name tests -prune -exec rm -rf {} + \
    && /opt/pneumonia/bin/python -m compileall -q pneumonia numpy/_core numpy/lib cv2 onnxruntime/capi fastapi starlette pydantic \
        uvicorn anyio prometheus_client rich

FROM build AS training
COPY requirements.lock ./
RUN uv venv --python /usr/local/bin/python /opt/pneumonia \
    && uv pip install --no-cache --python /opt/pneumonia --require-hashes -r requirements.lock \
    && uv pip install --no-cache --python /opt/pneumonia --no-deps /wheels/*.whl

# The service: CPU, no torch. SageMaker unpacks model.tar.gz into /opt/ml/model and says `serve`.
FROM base AS serve
RUN useradd --create-home --uid 1000 server
COPY --from=serving /opt/pneumonia /opt/pneumonia
# Whatever must be written goes to /tmp, so that the rest may be read-only. Nothing asks the network.
ENV PATH=/opt/pneumonia/bin:$PATH HOME=/tmp TMPDIR=/tmp OMP_NUM_THREADS=1 \
    PNEUMONIA_HOST=0.0.0.0 ORT_DISABLE_TELEMETRY=1
USER 1000
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/ping', timeout=4)"]
ENTRYPOINT ["pneumonia"]
CMD ["serve"]

# Training, the default target. CUDA comes with torch's own wheels.
FROM base AS train
RUN useradd --create-home --uid 1000 trainer && mkdir /work && chown trainer /work
COPY --from=training /opt/pneumonia /opt/pneumonia
ENV PATH=/opt/pneumonia/bin:$PATH
USER 1000
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["pneumonia"]
CMD ["train"]
