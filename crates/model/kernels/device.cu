// What nvcc compiles: all kernels, one translation unit.

extern "C" __global__ void nothing() {}
