#!/bin/bash
# Trains, matches and reports on a slice of TPUs in a cluster of GKE, by xpk (pip install xpk).
#
#     CLUSTER=my-cluster PROJECT=my-project ZONE=us-west4-a NAME=llama \
#         experiments/launch/gke.sh --config=configs/llama3_8b.py --workdir=/mnt/shared/llama3_8b
#
# From the repository: its last commit is put on an image with Python, which each of the slice's
# machines starts. Arguments go to experiments/seed_overlap.py, or to $SCRIPT. $TPU_TYPE is another
# slice than v5litepod-256, $IMAGE another image than python:3.11. The cluster is one of
# `xpk cluster create`; the work directory has to be in storage that is attached to it (`xpk storage
# attach`) and mounted, as have model and text, unless they come from the hub.
#
# The same command with another NAME goes on after an end; `xpk workload delete` has all processes
# save together and end.

set -euo pipefail
: "${CLUSTER:?CLUSTER is missing: as in CLUSTER=my-cluster}"
: "${PROJECT:?PROJECT is missing: as in PROJECT=my-project}"
: "${ZONE:?ZONE is missing: as in ZONE=us-west4-a}"
: "${NAME:?NAME is missing: of the workload, a new one each time, as in NAME=llama}"
SCRIPT=${SCRIPT:-experiments/seed_overlap.py}

# Without .venv and runs, which lie in the repository too.
source_folder=$(mktemp -d)
trap 'rm -r "$source_folder"' EXIT
git archive HEAD | tar -x -C "$source_folder"
# Quoted for the shell there.
arguments=$(printf ' %q' "$SCRIPT" --multihost "$@")

xpk workload create \
  --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" --workload="$NAME" \
  --tpu-type="${TPU_TYPE:-v5litepod-256}" --num-slices=1 \
  --base-docker-image="${IMAGE:-python:3.11}" --script-dir="$source_folder" \
  --command="pip install -q -c constraints.txt -e '.[tpu]' && exec python$arguments"
