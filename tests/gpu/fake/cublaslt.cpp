// libcublasLt.so.13 for machines without a GPU. Where a test asks for them its heuristics suggest algorithms of all kinds,
// the good ones last, so that a program which takes the first that comes has scores that depend on the number of rows.
//
// A test says how it is to be through the environment:
//   FAKE_CUBLASLT_ALGORITHMS  how many of its algorithms it has, from the first (only the good ones)
//   FAKE_CUBLASLT_VERSION     what it says of itself (130000)
#include "fake.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>

extern "C" void assay_host_matmul(int dtype, const void* weight, const void* x, void* out, const size_t* shape);

namespace {

// cublas_api.h: cublasStatus_t
enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

// library_types.h: cudaDataType
enum Type { R_32F = 0, R_16F = 2, R_16BF = 14 };

struct Handle {};

struct Operation {
    int sums, scale;
    int32_t transpose_a = 0;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
};

struct Preference {
    uint64_t workspace = 0;
    uint32_t alignments[4] = {256, 256, 256, 256};
};

// How an algorithm behaves; its place in the list is its number.
struct Kind {
    uint32_t split, reduction;
    size_t workspace;
    bool usable;          // as the heuristics say
    size_t flips_from;    // rows from which the last bit of a result is another one; 0: never
    size_t refuses_from;  // rows from which it is not supported; 0: never
    size_t flips_below = SIZE_MAX;  // rows from which the last bit is the right one again
    size_t kept = 0;                // rows at either end whose bits do not flip
    bool tiles = false;             // not supported but for whole tiles of rows
    bool large = false;             // slow where there are few rows
};
constexpr size_t TILE = 64, FEW = 2049;
constexpr auto SLOW = std::chrono::milliseconds(1);

const Kind KINDS[] = {
    {4, 1, 1 << 20, true, 0, 0},   // split along the depth, reduced in the workspace
    {1, 1, 1 << 20, true, 0, 0},   // reduced from parts
    {1, 0, 0, false, 0, 0},        // found unusable by the heuristics themselves
    {1, 0, 0, true, 129, 0},       // another kernel for more than 128 rows
    {1, 0, 0, true, 8192, 0},      // another kernel for a full step
    {1, 0, 0, true, 0, 257},       // made for few rows
    {1, 0, 0, true, 6000, 0, 8000, 512},  // another kernel in the middle of some numbers of rows
    {1, 0, 64 << 10, true, 0, 0, SIZE_MAX, 0, true, true},  // good
    {1, 0, 0, true, 1, 0},         // good as well, with other bits
};

constexpr uint32_t ALL = sizeof KINDS / sizeof KINDS[0], FIRST_GOOD = ALL - 2;

// The numbers of those that there are: from the first to before the second.
std::pair<uint32_t, uint32_t> algorithms() {
    const char* text = getenv("FAKE_CUBLASLT_ALGORITHMS");
    return text ? std::pair{0u, static_cast<uint32_t>(atoi(text))} : std::pair{FIRST_GOOD, ALL};
}

// cublasLt.h: cublasLtMatmulAlgo_t, whose contents are the library's.
struct Algorithm {
    uint64_t magic, number, type;
    uint64_t unused[5];
};
constexpr uint64_t MAGIC = 0xa1907217;

struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

auto& handles() { static auto& live = *new fake::Handles<Handle>("cublasLt handles"); return live; }
auto& operations() { static auto& live = *new fake::Handles<Operation>("matmul descriptors"); return live; }
auto& layouts() { static auto& live = *new fake::Handles<Layout>("matrix layouts"); return live; }
auto& preferences() { static auto& live = *new fake::Handles<Preference>("matmul preferences"); return live; }

int refuse(const char* function, int status, const std::string& why) {
    fake::complain(std::string(function) + ": status " + std::to_string(status) + ": " + why);
    return status;
}
#define REFUSE(status, why) return refuse(__func__, status, why)

// D [n, m] = B [n, k] times the transpose of A [m, k], all without gaps; as the library counts, columns first.
struct Problem {
    uint64_t m, n, k;
    int type;
};

bool understand(const void* of, const void* a_layout, const void* b_layout, const void* d_layout, Problem& problem) {
    const auto operation = operations().find(of);
    const auto a = layouts().find(a_layout), b = layouts().find(b_layout), d = layouts().find(d_layout);
    if (!operation || !a || !b || !d) return false;
    constexpr int TRANSPOSED = 1, COMPUTE_32F = 68;
    if (operation->sums != COMPUTE_32F || operation->scale != R_32F || operation->transpose_a != TRANSPOSED) return false;
    problem = {d->rows, d->columns, a->rows, a->type};
    const bool types = a->type == b->type && a->type == d->type;
    const bool sizes = a->columns == problem.m && b->rows == problem.k && b->columns == problem.n;
    const auto whole = [](const Layout& layout) { return layout.leading == static_cast<int64_t>(layout.rows); };
    return types && sizes && whole(*a) && whole(*b) && whole(*d);
}

bool aligned(const void* address, size_t to) { return reinterpret_cast<uintptr_t>(address) % to == 0; }

void flip_last_bits(void* out, size_t first, size_t end, size_t size) {
    for (size_t i = first; i < end; i++) static_cast<unsigned char*>(out)[i * size] ^= 1;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() {
    const char* text = getenv("FAKE_CUBLASLT_VERSION");
    return text ? strtoull(text, nullptr, 10) : 130000;
}

int cublasLtCreate(void** handle) {
    if (fake::device() < 0) REFUSE(NOT_INITIALIZED, "the thread has no context");
    *handle = handles().add(std::make_shared<Handle>());
    return SUCCESS;
}

int cublasLtDestroy(void* handle) {
    if (!handles().remove(handle)) REFUSE(NOT_INITIALIZED, "no such handle");
    return SUCCESS;
}

int cublasLtMatmulDescCreate(void** handle, int sums, int scale) {
    *handle = operations().add(std::make_shared<Operation>(Operation{sums, scale}));
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    constexpr int TRANSA = 3;
    const auto operation = operations().find(handle);
    if (!operation || attribute != TRANSA || bytes != sizeof operation->transpose_a) REFUSE(INVALID_VALUE, "an attribute");
    memcpy(&operation->transpose_a, value, bytes);
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(void* handle) {
    if (!operations().remove(handle)) REFUSE(INVALID_VALUE, "no such descriptor");
    return SUCCESS;
}

int cublasLtMatrixLayoutCreate(void** handle, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    if (rows == 0 || columns == 0 || leading < static_cast<int64_t>(rows)) REFUSE(INVALID_VALUE, "no such matrix");
    *handle = layouts().add(std::make_shared<Layout>(Layout{type, rows, columns, leading}));
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(void* handle) {
    if (!layouts().remove(handle)) REFUSE(INVALID_VALUE, "no such layout");
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(void** handle) {
    *handle = preferences().add(std::make_shared<Preference>());
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    constexpr int WORKSPACE = 1, REDUCTION_MASK = 3, ALIGNMENT_A = 5, ALIGNMENT_D = 8;
    const auto preference = preferences().find(handle);
    if (!preference) REFUSE(INVALID_VALUE, "no such preference");
    if (bytes != (attribute == WORKSPACE ? sizeof(uint64_t) : sizeof(uint32_t))) REFUSE(INVALID_VALUE, "its size");
    if (attribute == WORKSPACE) {
        memcpy(&preference->workspace, value, bytes);
    } else if (attribute >= ALIGNMENT_A && attribute <= ALIGNMENT_D) {
        memcpy(&preference->alignments[attribute - ALIGNMENT_A], value, bytes);
    } else if (attribute != REDUCTION_MASK) {
        REFUSE(INVALID_VALUE, "an attribute unknown here");
    }
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(void* handle) {
    if (!preferences().remove(handle)) REFUSE(INVALID_VALUE, "no such preference");
    return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, HeuristicResult* results, int* found) {
    if (const int status = fake::strike(__func__)) return status;
    Problem problem;
    const auto preferred = preferences().find(preference);
    if (!handles().find(handle) || !preferred || c != d || wanted < 1) REFUSE(INVALID_VALUE, "an argument");
    if (!understand(operation, a, b, d, problem)) REFUSE(INVALID_VALUE, "a matmul unknown here");
    *found = 0;
    const auto [first, end] = algorithms();
    for (uint32_t number = first; number < end && *found < wanted; number++) {
        const Kind& kind = KINDS[number];
        if (kind.workspace > preferred->workspace) continue;
        auto& result = results[(*found)++];
        memset(&result, 0, sizeof result);
        result.algorithm = {MAGIC, number, static_cast<uint64_t>(problem.type), {}};
        result.workspace = kind.workspace;
        result.state = kind.usable ? SUCCESS : NOT_SUPPORTED;
    }
    return SUCCESS;
}

int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute, void* value, size_t bytes,
                                         size_t* written) {
    constexpr int ID = 0, SPLIT = 2, REDUCTION = 3, STAGES = 6, CLUSTER = 8;
    if (algorithm->magic != MAGIC) REFUSE(INVALID_VALUE, "no algorithm");
    if (bytes != (attribute == CLUSTER ? sizeof(uint16_t) : sizeof(uint32_t))) REFUSE(INVALID_VALUE, "its size");
    const Kind& kind = KINDS[algorithm->number];
    const uint32_t number = static_cast<uint32_t>(algorithm->number);
    if (attribute < ID || attribute > CLUSTER) REFUSE(INVALID_VALUE, "an attribute unknown here");
    if (attribute == STAGES) return NOT_SUPPORTED;  // this library has none
    memcpy(value, attribute == SPLIT ? &kind.split : attribute == REDUCTION ? &kind.reduction : &number, bytes);
    *written = bytes;
    return SUCCESS;
}

int cublasLtMatmul(void* handle, void* operation, const float* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const float* beta, const void* c, void* c_layout, void* d, void* d_layout,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    if (const int status = fake::strike(__func__)) return status;
    if (fake::device() < 0) REFUSE(NOT_INITIALIZED, "the thread has no context");
    Problem problem;
    if (!handles().find(handle) || c != d || c_layout != d_layout) REFUSE(INVALID_VALUE, "an argument");
    if (!understand(operation, a_layout, b_layout, d_layout, problem)) REFUSE(INVALID_VALUE, "a matmul unknown here");
    if (*alpha != 1 || *beta != 0) REFUSE(INVALID_VALUE, "a scale unknown here");
    if (algorithm->magic != MAGIC || algorithm->type != static_cast<uint64_t>(problem.type)) {
        REFUSE(INVALID_VALUE, "an algorithm for other numbers");
    }
    const auto [m, n, k, type] = problem;
    const Kind& kind = KINDS[algorithm->number];
    const size_t size = type == R_32F ? 4 : 2;
    if (!aligned(a, 16) || !aligned(b, 16) || !aligned(d, 16)) REFUSE(INVALID_VALUE, "a matrix begins at an odd place");
    if (!fake::holds(a, m * k * size) || !fake::holds(b, n * k * size) || !fake::holds(d, m * n * size)) {
        REFUSE(INVALID_VALUE, "a matrix is not within one allocation of this GPU");
    }
    if (workspace_bytes < kind.workspace || !fake::holds(workspace, workspace_bytes) || !aligned(workspace, 256)) {
        REFUSE(INVALID_VALUE, "too little workspace");
    }
    if ((kind.refuses_from != 0 && n >= kind.refuses_from) || (kind.tiles && n % TILE != 0)) return NOT_SUPPORTED;
    const int dtype = type == R_32F ? 0 : type == R_16BF ? 1 : 2;
    // the promise of the program under test, not of cuBLASLt
    if (kind.split > 1 || kind.reduction != 0) fake::complain("a matmul is split along the depth");
    const bool flips = kind.flips_from != 0 && n >= kind.flips_from && n < kind.flips_below;
    const size_t first = kind.kept, end = n - std::min<size_t>(n, kind.kept);
    const auto work = [=, m = m, n = n, k = k] {
        if (kind.large && n < FEW) std::this_thread::sleep_for(SLOW);
        memset(workspace, 0xff, kind.workspace);
        const size_t shape[3] = {n, m, k};
        assay_host_matmul(dtype, a, b, d, shape);
        if (flips) flip_last_bits(d, m * first, m * end, size);
        return 0;
    };
    return fake::enqueue(stream, work) == 0 ? SUCCESS : EXECUTION_FAILED;
}

}  // extern "C"
