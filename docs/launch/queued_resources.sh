#!/usr/bin/env bash
# Trains on a Spot slice of Cloud TPU; on a new one after each preemption.
#   BUCKET=my-bucket ZONE=us-west4-a docs/launch/queued_resources.sh v5e-16
#   BUCKET=my-bucket ZONE=us-east5-b docs/launch/queued_resources.sh v6e-16
# Exits with 0 when the run is done, with 2 when the program refused its input,
# with 1 when Google refused the request; by then the slice is deleted or was
# never created. Ctrl-C ends only this script: restarted, it continues to watch.
set -euo pipefail

case "${1:-}" in
  v5e-16) type=v5litepod-16 runtime=v2-alpha-tpuv5-lite ;;
  v6e-16) type=v6e-16 runtime=v2-alpha-tpuv6e ;;
  *)
    echo "error: no such slice here: ${1:-none}; give v5e-16 or v6e-16" >&2
    exit 2
    ;;
esac
for variable in BUCKET ZONE; do
  if [ -z "${!variable:-}" ]; then
    echo "error: $variable is not set; this script's first lines show how" >&2
    exit 2
  fi
done
name=essl-$1
cd "$(dirname "$0")/../.."

queued() {
  gcloud compute tpus queued-resources "$1" "$name" --zone="$ZONE" "${@:2}"
}

on_first_host() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker=0 --command="$1"
}

# What every host installs.
git archive --format=tar.gz HEAD |
  gcloud storage cp - "gs://$BUCKET/code/essl_jax.tar.gz"

known=
while :; do
  if state=$(gcloud compute tpus queued-resources list --zone="$ZONE" \
    --filter="name~/$name\$" --format='value(state.state)'); then
    known=yes
  elif [ -n "$known" ]; then
    state="no answer" # a failure of the local network: the slice continues
  else
    exit 1
  fi
  echo "$(date +%T) $name: ${state:-none}"
  case "$state" in
    "")
      queued create --node-id="$name" --spot \
        --accelerator-type="$type" --runtime-version="$runtime" \
        --scopes=https://www.googleapis.com/auth/cloud-platform \
        --metadata=bucket="$BUCKET" \
        --metadata-from-file=startup-script=docs/launch/tpu_vm.sh
      ;;
    ACTIVE)
      # No answer: the host is starting, or is being removed.
      service=$(on_first_host 'systemctl show essl --property=SubState --value' ||
        true)
      if [ "$service" = exited ] || [ "$service" = failed ]; then
        on_first_host 'sudo journalctl --unit=essl --lines=40 --output=cat' || true
        queued delete --force --quiet
        if [ "$service" = exited ]; then exit 0; else exit 2; fi
      fi
      ;;
    # Preempted; it never comes back. Retry a failure.
    SUSPENDED) queued delete --force --quiet || true ;;
    FAILED)
      queued describe
      queued delete --force --quiet
      exit 1
      ;;
  esac
  sleep "${SECONDS_BETWEEN:-60}"
done
