#include "tests/integration/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace winnow {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(5);

std::string TemporaryPath() {
  std::string path = (std::filesystem::temp_directory_path() / "winnow_XXXXXX").string();
  close(mkstemp(path.data()));
  return path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The value of a text field in a line of either format, up to the next space or quote.
std::string LogValue(const std::string& line, const std::string& key) {
  for (const std::string& before : {" " + key + "=", "\"" + key + "\":\""}) {
    const size_t found = line.find(before);
    if (found == std::string::npos) continue;
    const size_t begin = found + before.size();
    return line.substr(begin, line.find_first_of(" \"\n", begin) - begin);
  }
  return "";
}

/// Connects to "A.B.C.D:PORT"; -1 when nobody listens.
int Connect(const std::string& address) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  int port = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], &port)) return -1;
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, parts[0].c_str(), &peer.sin_addr);
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(connection, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) {
    close(connection);
    return -1;
  }
  return connection;
}

}  // namespace

bool Becomes(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + kHangLimit;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(kPoll);
  }
  return true;
}

std::string DemoModelPath() {
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  if (path == nullptr) {
    std::fputs("set WINNOW_DEMO_MODEL to the demo model's file\n", stderr);
    std::exit(1);
  }
  return path;
}

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const std::string& input)
    : output_path_(TemporaryPath()) {
  const std::string input_path = TemporaryPath();
  std::ofstream(input_path, std::ios::binary) << input;
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.data()));
  argv.push_back(nullptr);
  // Opened before the fork: the child of a process with threads may only make system calls.
  const int in = open(input_path.c_str(), O_RDONLY | O_CLOEXEC);
  const int out = open(output_path_.c_str(), O_WRONLY | O_CLOEXEC);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  close(in);
  close(out);
  std::filesystem::remove(input_path);
}

ChildProcess::~ChildProcess() {
  if (!ExitStatus()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::filesystem::remove(output_path_);
}

std::string ChildProcess::Output() const { return ReadFile(output_path_); }

std::optional<int> ChildProcess::ExitStatus() {
  int status = 0;
  if (!exit_status_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_status_ = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  return exit_status_;
}

std::optional<int> ChildProcess::Wait() {
  Becomes([&] { return ExitStatus().has_value(); });
  return exit_status_;
}

CommandResult RunCommand(const std::vector<std::string>& arguments, const std::string& input) {
  ChildProcess process(arguments, input);
  const std::optional<int> exit_status = process.Wait();
  return {exit_status, process.Output()};
}

std::vector<std::string> WinnowCommand(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {WINNOW_BINARY};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

CommandResult RunWinnow(const std::vector<std::string>& arguments) {
  return RunCommand(WinnowCommand(arguments));
}

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(
    const std::vector<std::string>& flags, const std::vector<std::string>& wrapper) {
  std::vector<std::string> arguments = wrapper;
  const std::vector<std::string> command =
      WinnowCommand({"serve", "--model", DemoModelPath(), "--address", "127.0.0.1:0",
                     "--metrics-address", "127.0.0.1:0", "--log-level", "debug"});
  arguments.insert(arguments.end(), command.begin(), command.end());
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  const absl::Time started = absl::Now();
  std::unique_ptr<ServerProcess> server(new ServerProcess(arguments));
  while (true) {
    const std::string log = server->Log();
    const size_t listening =
        std::min(log.find("event=listening"), log.find("\"event\":\"listening\""));
    if (listening != std::string::npos && log.find('\n', listening) != std::string::npos) {
      server->startup_time_ = absl::Now() - started;
      server->address_ = LogValue(log.substr(listening), "address");
      server->metrics_address_ = LogValue(log.substr(listening), "metrics_address");
      return server;
    }
    if (server->ExitStatus() || absl::Now() - started > kHangLimit) {
      return absl::UnavailableError(absl::StrCat("the server did not start: ", server->Log()));
    }
    absl::SleepFor(kPoll);
  }
}

std::string ServerProcess::ScrapeMetrics() const {
  const int connection = Connect(metrics_address_);
  if (connection < 0) return "";
  const std::string request = absl::StrCat("GET /metrics HTTP/1.1\r\nHost: ", metrics_address_,
                                           "\r\nConnection: close\r\n\r\n");
  std::string response;
  if (write(connection, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    ssize_t count = 0;
    while ((count = read(connection, buffer, sizeof(buffer))) > 0) response.append(buffer, count);
  }
  close(connection);
  const size_t header = response.find("\r\n\r\n");
  if (response.rfind("HTTP/1.1 200 ", 0) != 0 || header == std::string::npos) return "";
  return response.substr(header + 4);
}

std::optional<double> ServerProcess::Metric(const std::string& series) const {
  const auto metrics = ParseMetrics(ScrapeMetrics());
  if (!metrics.ok()) return std::nullopt;
  const auto found = metrics->find(series);
  return found == metrics->end() ? std::nullopt : std::optional(found->second);
}

bool ServerProcess::MetricBecomes(const std::string& series, double value) const {
  return Becomes([&] { return Metric(series) == value; });
}

bool ServerProcess::Logs(std::string_view text) const {
  return Becomes([&] { return Log().find(text) != std::string::npos; });
}

bool ServerProcess::BecomesIdle() const {
  return MetricBecomes("winnow_requests_running", 0) &&
         MetricBecomes("winnow_requests_waiting", 0) &&
         MetricBecomes("winnow_kv_blocks{state=\"used\"}", 0);
}

void ServerProcess::Terminate() { kill(process_.pid(), SIGTERM); }

int ServerProcess::open_descriptors() const {
  std::error_code gone;  // the process may have ended
  const std::filesystem::directory_iterator entries(absl::StrCat("/proc/", process_.pid(), "/fd"),
                                                    gone);
  return static_cast<int>(std::distance(begin(entries), end(entries)));
}

std::vector<std::string> ServerProcess::ThreadsOpenTo(int signal) const {
  std::vector<std::string> open;
  std::error_code gone;
  for (const auto& thread :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process_.pid(), "/task"), gone)) {
    std::ifstream status(thread.path() / "status");
    std::string word, name;
    uint64_t blocked = 0;
    while (status >> word) {
      if (word == "Name:") status >> name;
      if (word == "SigBlk:") status >> std::hex >> blocked;
    }
    if (!name.empty() && (blocked >> (signal - 1)) % 2 == 0) open.push_back(name);
  }
  return open;
}

int64_t ServerProcess::StatusNumber(const std::string& name) const {
  std::ifstream status(absl::StrCat("/proc/", process_.pid(), "/status"));
  std::string word;
  while (status >> word && word != name) {
  }
  int64_t number = 0;
  status >> number;
  return number;
}

absl::StatusOr<std::map<std::string, double>> ParseMetrics(const std::string& page) {
  std::map<std::string, double> metrics;
  const std::vector<std::string> lines = absl::StrSplit(page, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == std::string::npos || !absl::SimpleAtod(line.substr(space + 1), &value)) {
      return absl::InvalidArgumentError("not a series with a value: " + line);
    }
    metrics[line.substr(0, space)] = value;
  }
  return metrics;
}

}  // namespace winnow
