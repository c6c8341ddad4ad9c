#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <string>

namespace winnow {

/// While it exists, stderr is a pipe that is full, and that nobody reads until they are asked to.
class UnreadPipe {
 public:
  UnreadPipe() : stderr_(dup(STDERR_FILENO)) {
    std::array<int, 2> ends;
    [[maybe_unused]] const int error = pipe2(ends.data(), O_CLOEXEC);
    read_end_ = ends[0];
    const std::string filler(4096, '.');
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], filler.data(), filler.size()) > 0) {
    }
    fcntl(ends[1], F_SETFL, 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
  }
  ~UnreadPipe() {
    dup2(stderr_, STDERR_FILENO);
    close(stderr_);
    close(read_end_);
  }
  UnreadPipe(const UnreadPipe&) = delete;
  UnreadPipe& operator=(const UnreadPipe&) = delete;

  /// Reads to the end of the line that has this; gives all that was written meanwhile.
  std::string ReadUntil(const std::string& part) {
    std::string text;
    std::array<char, 65536> buffer;
    while (text.find('\n', text.find(part)) == std::string::npos) {
      const ssize_t count = read(read_end_, buffer.data(), buffer.size());
      if (count <= 0) break;
      text.append(buffer.data(), static_cast<size_t>(count));
    }
    return text.substr(text.find_first_not_of('.'));  // what filled the pipe
  }
  /// Nobody will ever read it.
  void CloseReadEnd() {
    close(read_end_);
    read_end_ = -1;
  }

 private:
  int stderr_;
  int read_end_ = -1;
};

}  // namespace winnow
