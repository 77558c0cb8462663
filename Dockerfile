# The library for CPUs or, with --build-arg=PLATFORM=cuda or =tpu, GPUs or TPUs.
#   git archive HEAD | docker build --build-arg=PLATFORM=cuda -t essl_jax -
#   docker run --gpus=all -v "$PWD/runs:/app/runs" essl_jax train --config=quickstart
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm
ARG PLATFORM=cpu
WORKDIR /app
COPY . .
# CUDA comes from PyPI; of the machine, only NVIDIA's driver is used.
RUN case "$PLATFORM" in \
    cpu) chosen="" ;; \
    cuda | tpu) chosen=",$PLATFORM" ;; \
    *) echo "PLATFORM must be cpu, cuda or tpu, got $PLATFORM" >&2; exit 2 ;; \
  esac \
  && pip install --no-cache-dir --constraint=requirements.lock \
    ".[digits,gcs,s3$chosen]"
ENTRYPOINT ["essl-jax"]
CMD ["--help"]
