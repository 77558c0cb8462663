#!/usr/bin/env bash
# Trains on a slice of GKE: creates its node pool if it is missing, and starts
# the JobSet. The cluster needs JobSet's controller, and kubectl set up for it.
#   export BUCKET=my-bucket IMAGE=us-docker.pkg.dev/my-project/essl/essl:1
#   CLUSTER=my-cluster LOCATION=us-west4 ZONE=us-west4-a docs/launch/gke.sh v5e-16
#   CLUSTER=my-cluster LOCATION=us-east5 ZONE=us-east5-b docs/launch/gke.sh v6e-16
set -euo pipefail

case "${1:-}" in
  v5e-16) machine=ct5lp-hightpu-4t accelerator=tpu-v5-lite-podslice ;;
  v6e-16) machine=ct6e-standard-4t accelerator=tpu-v6e-slice ;;
  *)
    echo "error: no such slice here: ${1:-none}; give v5e-16 or v6e-16" >&2
    exit 2
    ;;
esac
for variable in BUCKET IMAGE CLUSTER LOCATION ZONE; do
  if [ -z "${!variable:-}" ]; then
    echo "error: $variable is not set; this script's first lines show how" >&2
    exit 2
  fi
done

pool=(--cluster="$CLUSTER" --location="$LOCATION")
if [ -z "$(gcloud container node-pools list "${pool[@]}" \
  --filter="name=essl-$1" --format='value(name)')" ]; then
  gcloud container node-pools create "essl-$1" "${pool[@]}" \
    --node-locations="$ZONE" --machine-type="$machine" --tpu-topology=4x4 \
    --num-nodes=4 --spot
fi
sed -e "s|\${ACCELERATOR}|$accelerator|" -e "s|\${IMAGE}|$IMAGE|" \
  -e "s|\${BUCKET}|$BUCKET|" "$(dirname "$0")/jobset.yaml" | kubectl apply -f -
