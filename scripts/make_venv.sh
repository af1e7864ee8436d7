#!/usr/bin/env bash
# Make (or complete) a virtual environment with this project in it.
#   make_venv.sh FOLDER CONSTRAINTS
# Settings in the environment: PYTHON, TORCH (a requirement), TORCH_INDEX (may be empty), EXTRAS (comma separated).
set -euo pipefail
folder=$1
constraints=$2

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$PYTHON is $("$PYTHON" --version 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2
    exit 1
}
# Debian keeps the part of Python that makes environments in a package of its own.
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq "python$version-venv"
    else
        echo "$PYTHON cannot make virtual environments: install the package python3-venv of your system first." >&2
        exit 1
    fi
fi

"$PYTHON" -m venv "$folder"
# The bytecode of all modules would be a fifth of the environment: that of the modules in use is written on first import.
install=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile)

# The torch that was asked for takes the place of the pinned one.
grep -v '^torch==' "$constraints" > "$folder/constraints.txt"
if [ -n "$TORCH" ]; then
    "${install[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c "$folder/constraints.txt" "$TORCH"
fi
"$folder/bin/python" -m pip freeze | grep '^torch==' >> "$folder/constraints.txt" || true
"${install[@]}" -c "$folder/constraints.txt" -e ".[$EXTRAS]"

PYTHONDONTWRITEBYTECODE='' "$folder/bin/python" - <<'PYTHON'
# The modules that every command imports.
import anndata
import datasets
import peft
import scipy.sparse
import sklearn.linear_model
import torch
from transformers import BertModel, PreTrainedTokenizerFast, Trainer

print(f"torch {torch.__version__}")
if torch.version.cuda:
    print("This is a CUDA build (several gigabytes). For another: make clean, then make TORCH_INDEX=<an index with CPU builds>.")
PYTHON
