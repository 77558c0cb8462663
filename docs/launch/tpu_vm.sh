#!/usr/bin/env bash
# The startup script of a TPU VM, which runs at every boot: a service that
# installs the library once, and trains. `journalctl --unit=essl` shows it.
set -euo pipefail
home=/opt/essl

if [ "${1:-}" != train ]; then
  install -D "$0" "$home/tpu_vm.sh"
  # SIGTERM at a shutdown goes only to the program, while the network still works.
  # Every failure except wrong input (2) restarts all hosts.
  exec systemd-run --unit=essl --property=After=network-online.target \
    --property=KillMode=mixed --property=TimeoutStopSec=120 \
    --property=Restart=on-failure --property=RestartSec=30 \
    --property=RestartPreventExitStatus=2 --property=RemainAfterExit=yes \
    --setenv=HOME=/root bash "$home/tpu_vm.sh" train
fi

# A failure of this script is not wrong input, though tar and uv may exit with 2.
trap 'exit 1' ERR
BUCKET=$(curl -sSf -H 'Metadata-Flavor: Google' \
  http://metadata.google.internal/computeMetadata/v1/instance/attributes/bucket)
export BUCKET
if [ ! -e "$home/is_installed" ]; then
  gcloud storage cat "gs://$BUCKET/code/essl_jax.tar.gz" | tar -xz -C "$home"
  curl -LsSf https://astral.sh/uv/install.sh | UV_INSTALL_DIR=$home/uv sh
  "$home/uv/uv" venv --clear --python 3.12 "$home/env"
  "$home/uv/uv" pip install --python "$home/env/bin/python" \
    "${home}[tpu,gcs]"
  touch "$home/is_installed"
fi
export PATH="$home/env/bin:$PATH"
exec bash "$home/docs/launch/train.sh"
