#!/usr/bin/env bash
# Measures what a quarter of an hour on a GPU allows, in this order: tests on it, a step
# compared with PyTorch, time to 90% kNN accuracy, a profile. A part that fails or takes
# too long does not stop the others.
#
#   experiments/gpu_session.sh IMAGES.npz PEER.py OUT [smoke]
#
#   IMAGES.npz  CIFAR-10; docs/performance.md has the command that writes it
#   PEER.py     the PyTorch program to compare with; docs/performance.md says what it does
#   OUT         folder for logs and records; weights in parts of 15 MB
#   smoke       a rehearsal on a CPU, in minutes, whose figures mean nothing
#
# WHEELS=FOLDER installs missing packages from a folder of wheels, without a network:
#   pip download -d FOLDER -e '.[test]'
set -uo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
  exit 2
fi
images=$(realpath "$1") peer=$(realpath "$2") mode=${4:-full}
mkdir -p "$3" && out=$(realpath "$3")
cd "$(dirname "$0")/.." || exit 1
case $mode in full | smoke) ;; *)
  echo "error: the fourth argument is $mode: give smoke, or omit it" >&2
  exit 2
  ;;
esac
for file in "$images" "$peer"; do
  [ -f "$file" ] || { echo "error: there is no file $file" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export JAX_COMPILATION_CACHE_DIR=$work/cache PYTHONUNBUFFERED=1

if [ -n "${WHEELS:-}" ]; then
  python -m pip install --quiet --no-index --find-links "$WHEELS" --no-deps \
    "$WHEELS"/*.whl >"$out/pip.log" 2>&1 || tail -n 1 "$out/pip.log"
fi

# part NAME SECONDS COMMAND...: runs a command, keeps its output, prints how it ended.
part() {
  local name=$1 seconds=$2 begun=$SECONDS code=0
  shift 2
  timeout --kill-after=10 "$seconds" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "$name: code $code after $((SECONDS - begun)) s: $(tail -n 1 "$out/$name.log")"
}

if [ "$mode" = full ]; then
  platforms=cuda step="--batch=512 --precision=bfloat16" steps=50
  train="--config=configs/cifar_fast.py" seconds=420 accuracy=90
else
  platforms=cpu step="--batch=32 --width=8" steps=2
  train="--config=configs/cifar_fast.py:small --config.epochs=1" seconds=300 accuracy=10
fi

# 1. Golden numbers of losses, models and one step, on the device itself. TF32 would be
# less exact than the bounds.
part tests 75 env JAX_PLATFORMS=$platforms JAX_DEFAULT_MATMUL_PRECISION=highest \
  python -m pytest -n 0 -q -x -o faulthandler_timeout=60 \
  tests/losses/test_losses.py tests/models/test_models_golden.py

# 2. Our step with augmentation, and PyTorch's compiled one without, by turns.
# shellcheck disable=SC2086  # several words
part benchmark 180 python experiments/profiling/benchmark.py --method=simsiam $step \
  --augment --steps=$steps --peer="$peer" --peer-arguments="--compile"

# 3. Time to accuracy; SIGTERM saves the run when its time is over.
# shellcheck disable=SC2086
part train "$seconds" python -m essl_jax.main $train --workdir="$work/fast" \
  --config.data.name="$images" --config.checkpoint_every_epochs=20
part accuracy 30 python experiments/profiling/time_to_accuracy.py "$work/fast" \
  --knn=$accuracy
cp "$work"/fast/*.json "$work"/fast/*.jsonl "$work"/fast/*.png "$out" 2>/dev/null
part export 60 env JAX_PLATFORMS=cpu python -m essl_jax.convert export \
  "$work/fast" "$work/fast.safetensors"
[ -f "$work/fast.safetensors" ] &&
  split --bytes=15M "$work/fast.safetensors" "$out/fast.safetensors."

# 4. Where the time of a step goes.
# shellcheck disable=SC2086
part profile 90 python experiments/profiling/profile_step.py --method=simsiam $step \
  --images="$images" --steps=$((steps < 20 ? steps : 20)) --json="$out/profile.json"

# Pack the files: a machine may send back only eight.
tar -czf "$out/session.tar.gz" -C "$out" --exclude='*.tar.gz' \
  --exclude='fast.safetensors.*' . && find "$out" -maxdepth 1 -type f \
  ! -name session.tar.gz ! -name 'fast.safetensors.*' -delete
echo "records: $out/session.tar.gz"
