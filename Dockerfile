# CPU:  docker build -t foliogpt .
# CUDA: docker build -t foliogpt --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 --build-arg TORCH=cu130 .
# Run:  docker run --rm -v folio-runs:/home/folio/foliogpt/runs foliogpt folio quickstart --overwrite
ARG BASE=python:3.11-slim
FROM ${BASE}

# A CUDA base has no Python. torch.compile needs a C++ compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && { command -v python3 || apt-get install --yes --no-install-recommends python3-dev python3-venv; } \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home folio \
    && install --directory --owner=folio --group=folio /home/folio/foliogpt /home/folio/foliogpt/runs

USER folio
WORKDIR /home/folio/foliogpt
COPY --chown=folio . .

ARG TORCH=cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH} \
    PIP_NO_CACHE_DIR=1 \
    PATH=/home/folio/venv/bin:${PATH}
RUN python3 -m venv /home/folio/venv
RUN python -m pip install --use-pep517 -c constraints.txt -e .[dev]

CMD ["folio", "--help"]
