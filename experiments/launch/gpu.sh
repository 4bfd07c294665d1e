#!/bin/bash
# Trains, matches and reports on all GPUs of this machine, in one process.
#
#     experiments/launch/gpu.sh --config=configs/paper.py --workdir=runs/paper
#
# From the repository, with its environment made:
#
#     make .venv/stamps/base && .venv/bin/pip install -c constraints.txt -e '.[gpu]'
#
# Arguments go to experiments/seed_overlap.py, or to $SCRIPT; $PYTHON is another Python.
# CUDA_VISIBLE_DEVICES=0,1 takes some of the GPUs. Ctrl-C and SIGTERM save the work, and the same
# command goes on.

set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
SCRIPT=${SCRIPT:-experiments/seed_overlap.py}
# JAX takes 75 % of a GPU unless told otherwise; nothing else runs here.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

exec "$PYTHON" "$SCRIPT" "$@"
