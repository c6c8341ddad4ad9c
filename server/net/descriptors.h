#pragma once

namespace winnow {

/// Descriptors that are kept for what a server must be able to open while it serves: files that it
/// reads again, and scrapes of its metrics.
inline constexpr int kReservedDescriptors = 32;

/// Lets this process open as many files as the system allows it (the soft limit of RLIMIT_NOFILE
/// becomes the hard one).
void RaiseDescriptorLimit();

/// How many files this process may have open.
int DescriptorLimit();

}  // namespace winnow
