// What the fakes of cuBLASLt and NCCL ask of the fake of the driver, which knows the streams and the memory.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <map>
#include <string>

namespace fake {

// Returns 0, or the error of the driver that the GPU has from then on.
using Work = std::function<int()>;

// Has work done behind what the stream has; an error of the driver if that is no stream of the current context.
int enqueue(void* stream, Work work);

// Whether these bytes lie in one allocation on the GPU of the current context.
bool holds(const void* address, size_t bytes);

// The GPU of the thread's current context; -1 without one.
int device();

// The error that a test has asked of this call of a function, or 0. See `Faults` in cuda.cpp.
int strike(const char* function);

// Notes in the report what the real library would not have forgiven.
void complain(const std::string& what);

// Notes that so many more, or fewer, of these are there; what is left when the process ends is in the report.
void count(const std::string& kind, int change);

// Handles that have been given out. A handle that is unknown, destroyed or of another kind is not found.
template <class T>
class Handles {
  public:
    explicit Handles(std::string kind) : kind_(std::move(kind)) {}

    T* add(std::shared_ptr<T> object) {
        std::lock_guard guard(lock_);
        T* handle = object.get();
        live_[handle] = std::move(object);
        count(kind_, 1);
        return handle;
    }

    std::shared_ptr<T> find(const void* handle) {
        std::lock_guard guard(lock_);
        const auto found = live_.find(handle);
        return found == live_.end() ? nullptr : found->second;
    }

    std::shared_ptr<T> remove(const void* handle) {
        std::lock_guard guard(lock_);
        const auto found = live_.find(handle);
        if (found == live_.end()) return nullptr;
        auto object = found->second;
        live_.erase(found);
        count(kind_, -1);
        return object;
    }

    template <class F>
    void each(F visit) {
        std::lock_guard guard(lock_);
        for (auto& [handle, object] : live_) visit(object);
    }

  private:
    std::string kind_;
    std::mutex lock_;
    std::map<const void*, std::shared_ptr<T>> live_;
};

}  // namespace fake
