# MoDiTalker with its weights. docs/install.md says how to build and run it; tests/test_packaging.py runs its steps.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# Where pip takes torch from: .../whl/cpu, .../whl/cu130 for NVIDIA GPUs; empty for pip's own choice.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PREFIX=/opt/moditalker
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist .
RUN python -m venv "$PREFIX"
RUN "$PREFIX/bin/pip" install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
RUN "$PREFIX/bin/pip" install --no-cache-dir "$(echo dist/*.whl)[serve]"
RUN "$PREFIX/bin/moditalker" doctor

FROM python:${PYTHON}-slim-bookworm
ARG PREFIX=/opt/moditalker
COPY --from=build ${PREFIX} ${PREFIX}
# HOME holds the key that signs videos. The NVIDIA container runtime reads its own two.
ENV PATH=${PREFIX}/bin:${PATH} \
    HOME=/home/moditalker \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir -p "$HOME" && chmod 1777 "$HOME"
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["moditalker"]
CMD ["--help"]
