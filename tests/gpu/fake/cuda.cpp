// libcuda.so.1 for machines without a GPU: the functions of the driver that Assay calls, directly or through cudarc.
// Kernels run on the CPU (crates/model/kernels/host.cpp), each stream on a thread of its own, and what the driver
// refuses is refused. Memory ends at a page that nobody may touch.
//
// A test says how it is to be through the environment:
//   FAKE_CUDA_DEVICES  GPUs (1)
//   FAKE_CUDA_MEMORY   bytes of each (4 GiB)
//   FAKE_CUDA_FAULT    a file that asks for a fault, once it is there: see `Faults`
//   FAKE_CUDA_REPORT   a file for what a driver would not have forgiven, and for what is left at the end
#include "fake.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <thread>
#include <vector>

#include "kernels.h"

extern "C" int assay_host_launch(const char* name, const uint64_t* args, const unsigned* shape);

namespace {

// cuda.h: CUresult
enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709,
};

constexpr size_t ALIGNMENT = 256, PLAIN_SHARED = 48 << 10, MOST_SHARED = 227 << 10;
constexpr unsigned char UNSET = 0xff, BEYOND = 0xa5;
constexpr auto BUS = std::chrono::microseconds(300);  // how late a copy from or to pinned memory begins

using Clock = std::chrono::steady_clock;

size_t variable(const char* name, size_t otherwise) {
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

// One primary context for each GPU; its handle stays the same, as the driver's does.
struct Context {
    int device = 0, retained = 0;
    bool opened = false;
    std::atomic<int> sticky{SUCCESS};  // the error of a kernel: all calls return it from then on
    std::atomic<size_t> used{0};
};

struct Stream {
    explicit Stream(Context* context) : context(context) {}
    Context* context;
    std::mutex lock;
    std::condition_variable changed;
    std::deque<fake::Work> queue;
    size_t enqueued = 0, finished = 0;
    bool destroyed = false;

    size_t add(fake::Work work) {
        std::lock_guard guard(lock);
        queue.push_back(std::move(work));
        changed.notify_all();
        return ++enqueued;
    }
    void wait(size_t until) {
        std::unique_lock guard(lock);
        changed.wait(guard, [&] { return finished >= until; });
    }
    void wait() {
        size_t until;
        {
            std::lock_guard guard(lock);
            until = enqueued;
        }
        wait(until);
    }
    void work() {
        std::unique_lock guard(lock);
        for (;;) {
            changed.wait(guard, [&] { return destroyed || !queue.empty(); });
            if (queue.empty()) return;
            auto next = std::move(queue.front());
            queue.pop_front();
            guard.unlock();
            const int code = context->sticky ? SUCCESS : next();
            if (code != SUCCESS) context->sticky = code;
            next = nullptr;
            guard.lock();
            finished++;
            changed.notify_all();
        }
    }
};

struct Event {
    Context* context;
    bool timed;
    std::shared_ptr<Stream> stream;  // of the last record
    size_t at = 0;
    std::atomic<Clock::time_point> time{};
};

struct Module {
    Context* context;
};

struct Function {
    std::string name;
    size_t bytes;  // of its arguments
    std::shared_ptr<Module> module;
    std::atomic<size_t> most_shared{PLAIN_SHARED};
};

// Memory that begins where the GPU's does and ends, but for alignment, at a page that cannot be read.
struct Memory {
    Context* context;
    char *map, *start;
    size_t mapped, bytes;
    std::atomic<int> copying{0};  // copies under way, for pinned memory

    Memory(Context* context, size_t bytes) : context(context), bytes(bytes) {
        const size_t page = sysconf(_SC_PAGESIZE), aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        mapped = (aligned + page - 1) / page * page + page;
        map = static_cast<char*>(mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (map == MAP_FAILED) abort();
        start = map + mapped - page - aligned;
        memset(map, BEYOND, start - map);
        memset(start, UNSET, bytes);
        memset(start + bytes, BEYOND, aligned - bytes);
        mprotect(map + mapped - page, page, PROT_NONE);
    }
    ~Memory() { munmap(map, mapped); }

    bool holds(const void* address, size_t count) const {
        const auto* from = static_cast<const char*>(address);
        return from >= start && count <= bytes && from - start <= static_cast<ptrdiff_t>(bytes - count);
    }
    bool intact() const {
        const size_t before = start - map, aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        const auto beyond = [](char byte) { return static_cast<unsigned char>(byte) == BEYOND; };
        return std::all_of(map, map + before, beyond) && std::all_of(start + bytes, start + aligned, beyond);
    }
};

// What a test asks to go wrong: the file says "FUNCTION N CODE", so that the Nth call from now on returns the code; a
// launch with "late" behind it is accepted, and it is the GPU that fails with the code. The last file counts.
struct Faults {
    std::mutex lock;
    std::string function, when;
    int calls = 0, code = 0;

    int strike(const char* called, bool late) {
        static const char* path = getenv("FAKE_CUDA_FAULT");
        if (!path) return 0;
        std::lock_guard guard(lock);
        if (access(path, R_OK) == 0) {
            when.clear();
            std::ifstream(path) >> function >> calls >> code >> when;
            unlink(path);
        }
        if (calls == 0 || function != called || late != (when == "late") || --calls > 0) return 0;
        function.clear(), when.clear();
        return code;
    }
};

// Never destroyed: threads may use it until the process is gone.
struct Driver {
    std::vector<std::unique_ptr<Context>> contexts;
    std::mutex lock;  // of what follows
    std::map<std::string, int> counts;
    Faults faults;
    std::atomic<bool> initialised{false};
    size_t memory = variable("FAKE_CUDA_MEMORY", size_t{4} << 30);
    fake::Handles<Stream> streams{"streams"};
    fake::Handles<Event> events{"events"};
    fake::Handles<Module> modules{"modules"};
    fake::Handles<Function> functions{"functions"};
    std::mutex memory_lock;
    std::map<const char*, std::shared_ptr<Memory>> allocations, pinned;  // by their start

    Driver() {
        for (size_t device = 0; device < variable("FAKE_CUDA_DEVICES", 1); device++) {
            contexts.push_back(std::make_unique<Context>());
            contexts.back()->device = static_cast<int>(device);
        }
    }
    // The allocation that an address is in.
    std::shared_ptr<Memory> find(const std::map<const char*, std::shared_ptr<Memory>>& of, const void* address) {
        std::lock_guard guard(memory_lock);
        auto after = of.upper_bound(static_cast<const char*>(address));
        if (after == of.begin()) return nullptr;
        const auto& memory = std::prev(after)->second;
        return memory->holds(address, 0) ? memory : nullptr;
    }
    void wait(Context* context) {
        std::vector<std::shared_ptr<Stream>> own;
        streams.each([&](auto& stream) { if (stream->context == context) own.push_back(stream); });
        for (auto& stream : own) stream->wait();
    }
};

Driver& driver() {
    static Driver* driver = new Driver;
    return *driver;
}

thread_local Context* current = nullptr;

int refuse(const char* function, int code, const std::string& why) {
    fake::complain(std::string(function) + ": error " + std::to_string(code) + ": " + why);
    return code;
}

// The current context of a function that begins, or why it cannot.
int enter(const char* function, Context*& context) {
    if (const int code = driver().faults.strike(function, false)) return code;
    if (!driver().initialised) return refuse(function, NOT_INITIALIZED, "cuInit has not been called");
    context = current;
    if (!context) return refuse(function, INVALID_CONTEXT, "the thread has no context");
    if (context->retained == 0) return refuse(function, CONTEXT_IS_DESTROYED, "the context has been released");
    return context->sticky;
}

#define ENTER()                  \
    Context* context = nullptr;  \
    if (const int code = enter(__func__, context)) return code
#define REFUSE(code, why) return refuse(__func__, code, why)

int find_stream(const char* function, Context* context, const void* handle, std::shared_ptr<Stream>& stream) {
    stream = driver().streams.find(handle);
    if (!stream) return refuse(function, INVALID_HANDLE, "no such stream");
    if (stream->context != context) return refuse(function, INVALID_HANDLE, "the stream is of another context");
    return SUCCESS;
}

#define STREAM()                    \
    std::shared_ptr<Stream> stream; \
    if (const int code = find_stream(__func__, context, of, stream)) return code

size_t rounded(size_t bytes) { return (bytes + 511) / 512 * 512; }

__attribute__((destructor)) void report() {
    for (auto& [kind, count] : driver().counts)
        if (count != 0) fake::complain("left: " + std::to_string(count) + " " + kind);
}

}  // namespace

// === for the other fakes ===

namespace fake {

int enqueue(void* of, Work work) {
    const auto stream = driver().streams.find(of);
    if (!stream || stream->context != current) return refuse("a library", INVALID_HANDLE, "no stream of this context");
    stream->add(std::move(work));
    return current->sticky;
}

bool holds(const void* address, size_t bytes) {
    const auto memory = driver().find(driver().allocations, address);
    return memory && memory->context == current && memory->holds(address, bytes);
}

int device() { return current && current->retained > 0 ? current->device : -1; }

int strike(const char* function) { return driver().faults.strike(function, false); }

void complain(const std::string& what) {
    static const char* path = getenv("FAKE_CUDA_REPORT");
    static std::mutex lock;
    std::lock_guard guard(lock);
    if (path) std::ofstream(path, std::ios::app) << what << std::endl;
    fprintf(stderr, "fake cuda: %s\n", what.c_str());
}

void count(const std::string& kind, int change) {
    std::lock_guard guard(driver().lock);
    driver().counts[kind] += change;
}

}  // namespace fake

extern "C" {

// === the driver, GPUs and contexts ===

int cuInit(unsigned flags) {
    driver().initialised = true;
    return flags == 0 ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorName(int code, const char** name) {
    *name = "CUDA_ERROR";
    return code >= 0 ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int, const char** text) {
    *text = "an error of the fake driver";
    return SUCCESS;
}

int cuDeviceGetCount(int* count) {
    *count = static_cast<int>(driver().contexts.size());
    return driver().initialised ? SUCCESS : NOT_INITIALIZED;
}

int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= static_cast<int>(driver().contexts.size())) return INVALID_DEVICE;
    *device = ordinal;
    return driver().initialised ? SUCCESS : NOT_INITIALIZED;
}

int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, length, "Fake");
    return SUCCESS;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device < 0 || device >= static_cast<int>(driver().contexts.size())) REFUSE(INVALID_DEVICE, "no such GPU");
    constexpr int MAJOR = 75, MINOR = 76, POOLS = 115;
    if (attribute != MAJOR && attribute != MINOR && attribute != POOLS) REFUSE(INVALID_VALUE, "an attribute unknown here");
    *value = attribute == MAJOR ? static_cast<int>(variable("FAKE_CUDA_CAPABILITY", 9)) : attribute == POOLS;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (device < 0 || device >= static_cast<int>(driver().contexts.size())) REFUSE(INVALID_DEVICE, "no such GPU");
    auto& primary = *driver().contexts[device];
    std::lock_guard guard(driver().lock);
    // it may be there to the end of the process, but who opens it again and again takes it from under the libraries
    if (primary.retained == 0 && primary.opened) REFUSE(INVALID_CONTEXT, "opened anew after it was released");
    primary.retained++, primary.opened = true;
    *context = &primary;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device < 0 || device >= static_cast<int>(driver().contexts.size())) REFUSE(INVALID_DEVICE, "no such GPU");
    auto& primary = *driver().contexts[device];
    if (primary.retained == 0) REFUSE(INVALID_CONTEXT, "released more often than retained");
    std::lock_guard guard(driver().lock);
    if (--primary.retained == 0) primary.sticky = SUCCESS;
    return SUCCESS;
}

int cuCtxGetCurrent(void** context) {
    *context = current;
    return driver().initialised ? SUCCESS : NOT_INITIALIZED;
}

int cuCtxSetCurrent(void* context) {
    current = static_cast<Context*>(context);
    return current && current->retained == 0 ? refuse(__func__, CONTEXT_IS_DESTROYED, "released") : SUCCESS;
}

int cuCtxSynchronize() {
    ENTER();
    driver().wait(context);
    return context->sticky;
}

// === streams and events ===

int cuStreamCreate(void** handle, unsigned) {
    ENTER();
    auto stream = std::make_shared<Stream>(context);
    std::thread([stream] { stream->work(); }).detach();
    *handle = driver().streams.add(stream);
    return SUCCESS;
}

int cuStreamSynchronize(void* of) {
    ENTER();
    STREAM();
    stream->wait();
    return context->sticky;
}

// Returns at once; the stream ends when it has done its work.
int cuStreamDestroy_v2(void* of) {
    ENTER();
    STREAM();
    driver().streams.remove(of);
    std::lock_guard guard(stream->lock);
    stream->destroyed = true;
    stream->changed.notify_all();
    return SUCCESS;
}

int cuEventCreate(void** handle, unsigned flags) {
    ENTER();
    constexpr unsigned DISABLE_TIMING = 2;
    auto event = std::make_shared<Event>();
    event->context = context, event->timed = !(flags & DISABLE_TIMING);
    *handle = driver().events.add(event);
    return SUCCESS;
}

int cuEventRecord(void* handle, void* of) {
    ENTER();
    STREAM();
    const auto event = driver().events.find(handle);
    if (!event || event->context != context) REFUSE(INVALID_HANDLE, "no such event");
    event->at = stream->add([event] { return event->time = Clock::now(), SUCCESS; });
    event->stream = stream;
    return SUCCESS;
}

int cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    ENTER();
    const auto start = driver().events.find(from), end = driver().events.find(to);
    if (!start || !end || !start->timed || !end->timed) REFUSE(INVALID_HANDLE, "no events that keep the time");
    if (!start->stream || !end->stream) REFUSE(INVALID_HANDLE, "an event that has not been recorded");
    *milliseconds = std::chrono::duration<float, std::milli>(end->time.load() - start->time.load()).count();
    return SUCCESS;
}

int cuEventSynchronize(void* handle) {
    ENTER();
    const auto event = driver().events.find(handle);
    if (!event) REFUSE(INVALID_HANDLE, "no such event");
    if (event->stream) event->stream->wait(event->at);
    return context->sticky;
}

int cuEventDestroy_v2(void* handle) {
    ENTER();
    if (!driver().events.remove(handle)) REFUSE(INVALID_HANDLE, "no such event");
    return SUCCESS;
}

// === memory ===

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER();
    *total = driver().memory;
    *free = driver().memory - context->used;
    return SUCCESS;
}

int cuMemAlloc_v2(void** address, size_t bytes) {
    ENTER();
    if (bytes == 0) REFUSE(INVALID_VALUE, "no bytes");
    if (context->used.fetch_add(rounded(bytes)) + rounded(bytes) > driver().memory) {
        context->used -= rounded(bytes);
        return OUT_OF_MEMORY;
    }
    const auto memory = std::make_shared<Memory>(context, bytes);
    fake::count("allocations", 1);
    std::lock_guard guard(driver().memory_lock);
    driver().allocations[memory->start] = memory;
    *address = memory->start;
    return SUCCESS;
}

// Waits until the GPU has nothing to do, as the driver does.
int cuMemFree_v2(void* address) {
    ENTER();
    driver().wait(context);
    const auto memory = driver().find(driver().allocations, address);
    if (!memory || memory->start != address) REFUSE(INVALID_VALUE, "no allocation begins here");
    if (!memory->intact()) REFUSE(ILLEGAL_ADDRESS, "something has written beyond an allocation");
    memory->context->used -= rounded(memory->bytes);
    fake::count("allocations", -1);
    std::lock_guard guard(driver().memory_lock);
    driver().allocations.erase(memory->start);
    return SUCCESS;
}

int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    ENTER();
    if (bytes == 0) REFUSE(INVALID_VALUE, "no bytes");
    const auto memory = std::make_shared<Memory>(context, bytes);
    fake::count("pinned allocations", 1);
    std::lock_guard guard(driver().memory_lock);
    driver().pinned[memory->start] = memory;
    *address = memory->start;
    return SUCCESS;
}

int cuMemFreeHost(void* address) {
    ENTER();
    const auto memory = driver().find(driver().pinned, address);
    if (!memory || memory->start != address) REFUSE(INVALID_VALUE, "no pinned memory begins here");
    if (memory->copying > 0) fake::complain("cuMemFreeHost: the GPU still copies from or to this memory");
    fake::count("pinned allocations", -1);
    std::lock_guard guard(driver().memory_lock);
    driver().pinned.erase(memory->start);
    return SUCCESS;
}

// Copies with the pinned memory on the host's side, later: who has not waited sees it.
static void copy_later(Stream& stream, std::shared_ptr<Memory> pinned, void* to, const void* from, size_t bytes) {
    pinned->copying++;
    stream.add([=] {
        std::this_thread::sleep_for(BUS);
        memcpy(to, from, bytes);
        pinned->copying--;
        return SUCCESS;
    });
}

int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* of) {
    ENTER();
    STREAM();
    if (bytes == 0) return SUCCESS;
    if (!fake::holds(to, bytes)) REFUSE(INVALID_VALUE, "not within one allocation of this GPU");
    if (auto pinned = driver().find(driver().pinned, from)) {
        if (!pinned->holds(from, bytes)) REFUSE(INVALID_VALUE, "beyond pinned memory");
        copy_later(*stream, pinned, to, from, bytes);
        return SUCCESS;
    }
    // the driver may copy pageable bytes away at once, but does not promise to
    stream->add([=] {
        std::this_thread::sleep_for(BUS);
        memcpy(to, from, bytes);
        return SUCCESS;
    });
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void* of) {
    ENTER();
    STREAM();
    if (bytes == 0) return SUCCESS;
    if (!fake::holds(from, bytes)) REFUSE(INVALID_VALUE, "not within one allocation of this GPU");
    if (auto pinned = driver().find(driver().pinned, to)) {
        if (!pinned->holds(to, bytes)) REFUSE(INVALID_VALUE, "beyond pinned memory");
        copy_later(*stream, pinned, to, from, bytes);
        return SUCCESS;
    }
    stream->wait();
    memcpy(to, from, bytes);
    return context->sticky;
}

int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void* of) {
    ENTER();
    STREAM();
    if (bytes == 0) return SUCCESS;
    if (!fake::holds(to, bytes) || !fake::holds(from, bytes)) REFUSE(INVALID_VALUE, "not within an allocation of this GPU");
    const auto *target = static_cast<char*>(to), *source = static_cast<const char*>(from);
    if (target < source + bytes && source < target + bytes) REFUSE(INVALID_VALUE, "the copy overlaps itself");
    stream->add([=] {
        memcpy(to, from, bytes);
        return SUCCESS;
    });
    return SUCCESS;
}

// === kernels ===

int cuModuleLoadData(void** handle, const void* image) {
    ENTER();
    if (!image) REFUSE(INVALID_VALUE, "no image");
    *handle = driver().modules.add(std::make_shared<Module>(Module{context}));
    return SUCCESS;
}

int cuModuleUnload(void* handle) {
    ENTER();
    const auto module = driver().modules.remove(handle);
    if (!module) REFUSE(INVALID_HANDLE, "no such module");
    std::vector<const void*> own;
    driver().functions.each([&](auto& function) { if (function->module == module) own.push_back(function.get()); });
    for (const void* function : own) driver().functions.remove(function);
    return SUCCESS;
}

int cuModuleGetFunction(void** handle, void* of, const char* name) {
    ENTER();
    const auto module = driver().modules.find(of);
    if (!module || module->context != context) REFUSE(INVALID_HANDLE, "no such module");
    struct Entry {
        const char* name;
        size_t bytes;
    };
#define ENTRY(name, Args, function) Entry{#name, sizeof(Args)},
    static const Entry ENTRIES[] = {KERNELS(ENTRY)};
    for (const auto& entry : ENTRIES) {
        if (strcmp(entry.name, name) != 0) continue;
        auto function = std::make_shared<Function>();
        function->name = name, function->bytes = entry.bytes, function->module = module;
        *handle = driver().functions.add(function);
        return SUCCESS;
    }
    return NOT_FOUND;
}

int cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER();
    constexpr int MAX_DYNAMIC_SHARED = 8;
    const auto function = driver().functions.find(handle);
    if (!function) REFUSE(INVALID_HANDLE, "no such function");
    if (attribute != MAX_DYNAMIC_SHARED) REFUSE(INVALID_VALUE, "an attribute unknown here");
    if (value < 0 || value > static_cast<int>(MOST_SHARED)) REFUSE(INVALID_VALUE, "more shared memory than there is");
    function->most_shared = value;
    return SUCCESS;
}

int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* of, void** parameters, void** extra) {
    ENTER();
    STREAM();
    const auto function = driver().functions.find(handle);
    if (!function || function->module->context != context) REFUSE(INVALID_HANDLE, "no such function");
    if (!parameters || extra) REFUSE(INVALID_VALUE, "no parameters");
    const bool grid = grid_x > 0 && grid_x <= 0x7fffffff && grid_y > 0 && grid_y <= 0xffff && grid_z == 1;
    // the kernels take whole warps of one dimension
    const bool block = block_x > 0 && block_x <= 1024 && block_x % WARP == 0 && block_y == 1 && block_z == 1;
    if (!grid || !block) REFUSE(INVALID_VALUE, function->name + ": a grid or a block that cannot be");
    if (shared > function->most_shared) REFUSE(INVALID_VALUE, function->name + ": more shared memory than it may have");
    std::vector<uint64_t> arguments(function->bytes / sizeof(uint64_t));
    memcpy(arguments.data(), parameters[0], function->bytes);
    const int fault = driver().faults.strike(__func__, true);
    stream->add([=, arguments = std::move(arguments)] {
        const unsigned shape[5] = {grid_x, grid_y, block_x, shared, static_cast<unsigned>(arguments.size())};
        return fault ? fault : assay_host_launch(function->name.c_str(), arguments.data(), shape);
    });
    return SUCCESS;
}

}  // extern "C"
