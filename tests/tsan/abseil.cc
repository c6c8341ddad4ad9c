// Makes locks and counts of references of a distribution's Abseil visible to ThreadSanitizer.
//
// The library is not instrumented, so what absl::Mutex orders, in our code and in gRPC's, and who
// deletes what copies of an absl::Status share, would all look like races. The functions here take
// the place of the library's in the whole process; those of locks call them, and say what they
// order. Linked into every program of a build with ThreadSanitizer.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#define WINNOW_TEXT_OF(name) #name
#define WINNOW_TEXT(name) WINNOW_TEXT_OF(name)
#define WINNOW_ABSL WINNOW_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME)
static_assert(sizeof(WINNOW_ABSL) == 8, "the names below say that it has 7 letters");

namespace {

/// The library's function of that mangled name.
template <typename Function>
Function* Library(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const lock = Library<void(Mutex*)>("_ZN4absl7" WINNOW_ABSL "5Mutex4LockEv");
  lock(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static auto* const unlock = Library<void(Mutex*)>("_ZN4absl7" WINNOW_ABSL "5Mutex6UnlockEv");
  __tsan_release(this);
  unlock(this);
}

bool Mutex::TryLock() {
  static auto* const try_lock = Library<bool(Mutex*)>("_ZN4absl7" WINNOW_ABSL "5Mutex7TryLockEv");
  const bool locked = try_lock(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const wait =
      Library<void(CondVar*, Mutex*)>("_ZN4absl7" WINNOW_ABSL "7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  wait(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const wait = Library<bool(CondVar*, Mutex*, Duration)>(
      "_ZN4absl7" WINNOW_ABSL "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool expired = wait(this, mutex, timeout);
  __tsan_acquire(mutex);
  return expired;
}

void Status::UnrefNonInlined(uintptr_t rep) {
  status_internal::StatusRep* const shared = RepToPointer(rep);
  if (shared->ref.fetch_sub(1, std::memory_order_acq_rel) == 1) delete shared;
}

ABSL_NAMESPACE_END
}  // namespace absl
