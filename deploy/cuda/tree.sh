#!/usr/bin/env bash
# Print the path of an nvcc of CUDA 13: the system's if it has one, else that of a tree in DIR, made from PyPI wheels
# (270 MB on the disk). A tree that is complete is used as it is, without the network.
#
#     deploy/cuda/tree.sh DIR
set -euo pipefail

# nvcc, the headers that it includes by itself, its device compiler, the runtime's headers, and <nv/target> for cuda_bf16.h
WHEELS=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)

for nvcc in "${NVCC:-}" "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc; do
    if [ -x "$nvcc" ] && [[ $("$nvcc" --version) == *"release 13."* ]]; then
        realpath "$nvcc"
        exit
    fi
done

mkdir -p "$1"
tree=$(realpath "$1")
if [ "$(cat "$tree/wheels" 2>/dev/null)" != "${WHEELS[*]}" ]; then
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "nvcc: this machine has neither CUDA 13 nor python3 with pip to fetch it (apt: python3-pip)" >&2
        exit 1
    }
    echo "fetching nvcc from PyPI: ${WHEELS[*]}" >&2
    rm -f "$tree/wheels" # until it is complete
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --retries 2 \
        --upgrade --no-deps --no-compile --only-binary=:all: --target "$tree" "${WHEELS[@]}" >&2
    echo "${WHEELS[*]}" >"$tree/wheels"
fi
echo "$tree/nvidia/cu13/bin/nvcc"
