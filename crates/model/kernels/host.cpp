// What the host's C++ compiler compiles: the same kernels, for tests on the CPU.

extern "C" void nothing() {}
