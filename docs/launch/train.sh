#!/usr/bin/env bash
# The command of every process of a run; adds the flags that it is given.
#   BUCKET=my-bucket docs/launch/train.sh [FLAGS]
# Exit code: 0 when the run is done, 75 when SIGTERM stopped it and it has saved,
# 2 for wrong input, 1 or another code for a failure. After 75, 1 and others, the
# same command resumes.
set -euo pipefail
if [ -z "${BUCKET:-}" ]; then
  echo "error: BUCKET is not set: give the bucket's name, without gs://" >&2
  exit 2
fi
cd "$(dirname "$0")/../.."
exec python -m essl_jax.main \
  --config=configs/imagenet_simclr.py:epochs=100 \
  --config.precision=bfloat16 \
  --config.data.dir="gs://$BUCKET/tfds" \
  --workdir="gs://$BUCKET/runs/essl" \
  --stop_code=75 "$@"
