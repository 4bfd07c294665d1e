#!/bin/bash
# Trains, matches and reports on a slice of Cloud TPUs, a process on each of its machines.
#
#     gcloud compute tpus tpu-vm create my-tpu --zone=us-west4-a \
#         --accelerator-type=v5litepod-256 --version=v2-alpha-tpuv5-lite
#     TPU=my-tpu ZONE=us-west4-a experiments/launch/tpu_vm.sh install
#     TPU=my-tpu ZONE=us-west4-a experiments/launch/tpu_vm.sh start \
#         --config=configs/llama3_8b.py --workdir=/mnt/shared/runs/llama3_8b
#     TPU=my-tpu ZONE=us-west4-a experiments/launch/tpu_vm.sh watch
#     TPU=my-tpu ZONE=us-west4-a experiments/launch/tpu_vm.sh stop
#
# From the repository. "install" copies its last commit to all machines and makes an environment;
# "start" begins a run that outlives this connection; "watch" shows what the first machine says;
# "stop" has all processes save together and end, and "start" with the same arguments goes on.
#
# What follows "start" goes to experiments/seed_overlap.py, or to $SCRIPT. The work directory has to
# be in a folder that all machines have mounted, as of Filestore; so have the model and the text,
# unless they come from the hub.

set -euo pipefail
: "${TPU:?TPU is missing: the name of the slice, as in TPU=my-tpu}"
: "${ZONE:?ZONE is missing: where the slice is, as in ZONE=us-west4-a}"
SCRIPT=${SCRIPT:-experiments/seed_overlap.py}
usage="choose install, start, watch or stop: experiments/launch/tpu_vm.sh start --config=..."

on() { # on WORKERS COMMAND: runs a command on all machines or on one
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="$2"
}

prepare() {
  local archive
  archive=$(mktemp -d)/saejax.tgz
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:saejax.tgz" --zone="$ZONE" --worker=all
  rm -r "$(dirname "$archive")"
  # Images with Ubuntu 22.04 have Python 3.10.
  on all "set -e
    command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -q -y python3.11; }
    sudo apt-get install -q -y python3.11-venv
    mkdir -p saejax && tar -xzf saejax.tgz -C saejax && cd saejax
    python3.11 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'"
}

start() {
  # Quoted for the shell there.
  local arguments
  arguments=$(printf ' %q' "$SCRIPT" --multihost "$@")
  on all "cd saejax && { nohup .venv/bin/python$arguments >log 2>&1 </dev/null & echo \$! >pid; }"
}

case "${1:-}" in
  install) prepare ;;
  start) start "${@:2}" ;;
  watch) on 0 "tail -n 20 -f saejax/log" ;;
  stop) on all "kill -TERM \$(cat saejax/pid)" ;;
  *) echo "$usage" >&2; exit 1 ;;
esac
