// libnccl.so.2 for machines without a GPU; the ranks are in one process. Calls do not wait: a communicator is in
// progress until all ranks have come, and after its first operation for a moment, in which nothing may be asked of it.
// What comes into the stream comes there only then, as with NCCL: who goes on before has the wrong order.
//
// A test says how it is to be through the environment:
//   FAKE_NCCL_FORMING  milliseconds that ranks take to form a communicator once all have come (0)
#include "fake.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>
#include <thread>
#include <vector>

extern "C" int cuCtxGetCurrent(void** context);
extern "C" int cuCtxSetCurrent(void* context);

namespace {

// nccl.h: ncclResult_t, ncclDataType_t, ncclUniqueId, and how ncclConfig_t begins
enum Result { SUCCESS = 0, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum Type { FLOAT16 = 6, FLOAT32 = 7, BFLOAT16 = 9 };
struct Id {
    char bytes[128];
};
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

constexpr auto CONNECTING = std::chrono::milliseconds(2);
using Clock = std::chrono::steady_clock;

// What a rank sends another, with what it is part of: both must do the same.
struct Message {
    std::string operation;
    std::vector<char> bytes;
};

// The ranks that know one id.
struct World {
    explicit World(int size) : size(size) {}
    const int size;
    std::mutex lock;
    std::condition_variable changed;
    std::set<int> here;
    Clock::time_point last;  // when the last rank came
    std::map<std::pair<int, int>, std::deque<Message>> sent;  // from, to
};

struct Comm {
    std::shared_ptr<World> world;
    int rank, device;
    std::atomic<int> state{IN_PROGRESS}, waiting{0};  // waiting: operations in the stream
    std::atomic<bool> aborted{false}, connected{false}, finalized{false};
};

// One part of an operation, or the whole of it.
struct Part {
    enum { SEND, RECEIVE, GATHER } what;
    const char* from;
    char* to;
    size_t count;
    int type, peer;
    std::shared_ptr<Comm> comm;
    void* stream;
};

auto& comms() { static auto& live = *new fake::Handles<Comm>("communicators"); return live; }
std::mutex worlds_lock;
std::map<std::string, std::shared_ptr<World>> worlds;
thread_local int groups = 0;
thread_local std::vector<Part> queued;

int refuse(const char* function, int code, const std::string& why) {
    fake::complain(std::string(function) + ": error " + std::to_string(code) + ": " + why);
    return code;
}
#define REFUSE(code, why) return refuse(__func__, code, why)

std::chrono::milliseconds forming() {
    const char* text = getenv("FAKE_NCCL_FORMING");
    return std::chrono::milliseconds(text ? atoi(text) : 0);
}

size_t size_of(int type) { return type == FLOAT32 ? 4 : 2; }

void send(Comm& comm, int peer, Message message) {
    std::lock_guard guard(comm.world->lock);
    comm.world->sent[{comm.rank, peer}].push_back(std::move(message));
    comm.world->changed.notify_all();
}

// What a rank has sent; nothing if the communicator is aborted first, or the ranks do not do the same.
std::vector<char> receive(Comm& comm, int peer, const std::string& operation, size_t bytes) {
    auto& world = *comm.world;
    std::unique_lock guard(world.lock);
    auto& messages = world.sent[{peer, comm.rank}];
    world.changed.wait(guard, [&] { return comm.aborted || !messages.empty(); });
    if (comm.aborted) return {};
    auto message = std::move(messages.front());
    messages.pop_front();
    if (message.operation == operation && message.bytes.size() == bytes) return message.bytes;
    fake::complain("rank " + std::to_string(peer) + " does a " + message.operation + " of " +
                   std::to_string(message.bytes.size()) + " bytes, rank " + std::to_string(comm.rank) + " a " + operation +
                   " of " + std::to_string(bytes));
    comm.state = REMOTE_ERROR;
    return {};
}

// Everybody's bytes, in rank order, or nothing.
std::vector<std::vector<char>> gather(Comm& comm, const Part& part, const std::string& operation) {
    const size_t bytes = part.count * size_of(part.type);
    std::vector<std::vector<char>> all(comm.world->size);
    all[comm.rank].assign(part.from, part.from + bytes);
    for (int peer = 0; peer < comm.world->size; peer++)
        if (peer != comm.rank) send(comm, peer, {operation, all[comm.rank]});
    for (int peer = 0; peer < comm.world->size; peer++) {
        if (peer == comm.rank) continue;
        all[peer] = receive(comm, peer, operation, bytes);
        if (all[peer].size() != bytes) return {};
    }
    return all;
}

void run(Comm& comm, const Part& part) {
    const size_t bytes = part.count * size_of(part.type);
    if (part.what == Part::RECEIVE) {
        const auto got = receive(comm, part.peer, "send", bytes);
        memcpy(part.to, got.data(), got.size());
        return;
    }
    const auto all = gather(comm, part, "all-gather");
    for (size_t rank = 0; rank < all.size(); rank++) memcpy(part.to + rank * bytes, all[rank].data(), bytes);
}

// What the stream does: all is sent before anything is waited for.
int run(const std::vector<Part>& parts) {
    Comm& comm = *parts.front().comm;
    for (const Part& part : parts) {
        const size_t bytes = part.count * size_of(part.type);
        if (part.what == Part::SEND) send(comm, part.peer, {"send", {part.from, part.from + bytes}});
    }
    for (const Part& part : parts)
        if (part.what != Part::SEND) run(comm, part);
    comm.waiting--;
    return 0;
}

// Brings an operation into the stream: at once, but for the first, whose connections are made by another thread.
int issue(std::vector<Part> parts) {
    const auto comm = parts.front().comm;
    void* stream = parts.front().stream;
    comm->waiting++;
    auto work = [parts = std::move(parts)] { return run(parts); };
    if (comm->connected) return fake::enqueue(stream, work) == 0 ? SUCCESS : INTERNAL_ERROR;
    comm->connected = true;
    comm->state = IN_PROGRESS;
    void* context = nullptr;
    cuCtxGetCurrent(&context);
    std::thread([=] {
        std::this_thread::sleep_for(CONNECTING);
        cuCtxSetCurrent(context);
        const bool done = !comm->aborted && fake::enqueue(stream, work) == 0;
        comm->state = done ? SUCCESS : INTERNAL_ERROR;
    }).detach();
    return IN_PROGRESS;
}

// The communicator of a call that asks for work, if it may ask.
int usable(const char* function, const void* handle, std::shared_ptr<Comm>& comm) {
    if (const int code = fake::strike(function)) return code;
    comm = comms().find(handle);
    if (!comm) return refuse(function, INVALID_ARGUMENT, "no such communicator");
    if (comm->state == IN_PROGRESS) return refuse(function, INVALID_USAGE, "the last call is still in progress");
    if (comm->finalized) return refuse(function, INVALID_USAGE, "the communicator is finalized");
    return comm->state;
}

int queue(const char* function, const void* handle, Part part) {
    if (const int code = usable(function, handle, part.comm)) return code;
    Comm& comm = *part.comm;
    const size_t bytes = part.count * size_of(part.type);
    if (part.type != FLOAT16 && part.type != FLOAT32 && part.type != BFLOAT16) return refuse(function, INVALID_ARGUMENT, "type");
    if (fake::device() != comm.device) return refuse(function, INVALID_USAGE, "another GPU is current");
    if (part.peer < 0 || part.peer >= comm.world->size) return refuse(function, INVALID_ARGUMENT, "no such rank");
    const size_t written = part.what == Part::GATHER ? bytes * comm.world->size : bytes;
    if ((part.from && !fake::holds(part.from, bytes)) || (part.to && !fake::holds(part.to, written))) {
        return refuse(function, INVALID_ARGUMENT, "not within one allocation of this GPU");
    }
    if (groups == 0) return issue({part});
    queued.push_back(part);
    return SUCCESS;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
    *version = 22800;
    return SUCCESS;
}

const char* ncclGetErrorString(int code) { return code == IN_PROGRESS ? "in progress" : "an error of the fake NCCL"; }

int ncclGetUniqueId(Id* id) {
    static std::atomic<uint64_t> next{1};
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "fake %llu", static_cast<unsigned long long>(next++));
    id->bytes[127] = static_cast<char>(0xfe);  // all of it is to be carried
    return SUCCESS;
}

int ncclCommInitRankConfig(void** handle, int size, Id id, int rank, const Config* config) {
    if (const int code = fake::strike(__func__)) return code;
    if (fake::device() < 0) REFUSE(INVALID_USAGE, "the thread has no context");
    if (config->magic != 0xcafebeef || config->blocking != 0) REFUSE(INVALID_ARGUMENT, "a configuration unknown here");
    if (rank < 0 || rank >= size || id.bytes[127] != static_cast<char>(0xfe)) REFUSE(INVALID_ARGUMENT, "a rank or an id");
    std::unique_lock guard(worlds_lock);
    auto& world = worlds[id.bytes];
    if (!world) world = std::make_shared<World>(size);
    if (world->size != size || world->here.count(rank)) REFUSE(INVALID_USAGE, "ranks do not agree");
    auto comm = std::make_shared<Comm>();
    comm->world = world, comm->rank = rank, comm->device = fake::device();
    *handle = comms().add(comm);
    std::lock_guard meeting(world->lock);
    world->here.insert(rank);
    world->last = Clock::now();
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(void* handle, int* state) {
    const auto comm = comms().find(handle);
    if (!comm) REFUSE(INVALID_ARGUMENT, "no such communicator");
    if (const int code = fake::strike(__func__)) comm->state = code;
    {
        std::lock_guard guard(comm->world->lock);
        const bool all = static_cast<int>(comm->world->here.size()) == comm->world->size;
        const bool formed = all && Clock::now() >= comm->world->last + forming();
        if (comm->state == IN_PROGRESS && !comm->connected && formed) comm->state = SUCCESS;
    }
    *state = comm->finalized && comm->waiting > 0 ? IN_PROGRESS : comm->state.load();
    return SUCCESS;
}

int ncclCommFinalize(void* handle) {
    std::shared_ptr<Comm> comm;
    if (const int code = usable(__func__, handle, comm)) return code;
    comm->finalized = true;
    return comm->waiting > 0 ? IN_PROGRESS : SUCCESS;
}

int ncclCommDestroy(void* handle) {
    const auto comm = comms().remove(handle);
    if (!comm) REFUSE(INVALID_ARGUMENT, "no such communicator");
    if (!comm->finalized || comm->waiting > 0) REFUSE(INVALID_USAGE, "destroyed before it was finalized");
    return SUCCESS;
}

// Operations in the stream end, whatever they leave in their buffers; so do those that are still to come there.
int ncclCommAbort(void* handle) {
    const auto comm = comms().remove(handle);
    if (!comm) REFUSE(INVALID_ARGUMENT, "no such communicator");
    {
        std::lock_guard guard(comm->world->lock);
        comm->aborted = true;
        comm->world->changed.notify_all();
    }
    return SUCCESS;
}

int ncclGroupStart() {
    groups++;
    return SUCCESS;
}

int ncclGroupEnd() {
    if (groups == 0) REFUSE(INVALID_USAGE, "no group has been started");
    if (--groups > 0 || queued.empty()) return SUCCESS;
    if (const int code = fake::strike(__func__)) return queued.clear(), code;
    std::vector<Part> parts;
    parts.swap(queued);
    for (const Part& part : parts)
        if (part.comm != parts.front().comm || part.stream != parts.front().stream) REFUSE(INVALID_USAGE, "mixed group");
    return issue(std::move(parts));
}

int ncclSend(const void* from, size_t count, int type, int peer, void* comm, void* stream) {
    return queue(__func__, comm, {Part::SEND, static_cast<const char*>(from), nullptr, count, type, peer, nullptr, stream});
}

int ncclRecv(void* to, size_t count, int type, int peer, void* comm, void* stream) {
    return queue(__func__, comm, {Part::RECEIVE, nullptr, static_cast<char*>(to), count, type, peer, nullptr, stream});
}

int ncclAllGather(const void* from, void* to, size_t count, int type, void* comm, void* stream) {
    const auto *source = static_cast<const char*>(from);
    return queue(__func__, comm, {Part::GATHER, source, static_cast<char*>(to), count, type, 0, nullptr, stream});
}

}  // extern "C"
