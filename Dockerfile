# syntax=docker/dockerfile:1
# Training image.   docker build -t pneumonia .   docker run --gpus all -v "$PWD/runs:/work/runs" pneumonia train
FROM python:3.11-slim
RUN useradd --create-home --uid 1000 trainer && mkdir /work && chown trainer /work
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir "uv>=0.9,<1" \
    && uv pip install --system --no-cache --require-hashes -r /tmp/requirements.lock
COPY . /src
RUN uv pip install --system --no-cache --no-deps /src
USER 1000
WORKDIR /work
ENTRYPOINT ["pneumonia"]
CMD ["train"]
