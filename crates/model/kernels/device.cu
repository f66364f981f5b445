// The kernels for GPUs, one translation unit.
#include "kernels.h"

extern __shared__ __align__(16) char shared[];

// 256 threads at most, a block at least: the compiler may use as many registers as that leaves, and need not spill any
#define KERNEL(name, Args, function) \
    extern "C" __global__ void __launch_bounds__(256, 1) name(const __grid_constant__ Args args) { function(args, shared); }

KERNELS(KERNEL)
