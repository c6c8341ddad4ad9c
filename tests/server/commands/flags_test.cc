#include "server/commands/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// One flag of each kind.
struct Flags {
  bool json = false;
  int threads = 4;
  int tokens = 0;
  int64_t bytes = 1;
  double seconds = 2.5;
  std::string address = "localhost:1";
  std::string format = "text";
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  FlagSet set{"winnow test", "Tests."};

  Flags() {
    set.Add("json", &json, "", "Print JSON.");
    set.Add("threads", &threads, "N", "Threads.", {1, 64});
    set.AddNumberOr("auto", "tokens", &tokens, "TOKENS", "Tokens.", {0, 100});
    set.Add("bytes", &bytes, "BYTES", "Bytes.", {.min = 0});
    set.Add("seconds", &seconds, "SECONDS", "Seconds.", {0, 10});
    set.Add("address", &address, "HOST:PORT", "Where.");
    set.AddChoice("format", &format, {"text", "json"}, "How.");
    set.Add("temperature", &temperature, "X", "Heat.");
    set.Add("seed", &seed, "N", "Seed.");
    set.Add("stop", &stop, "TEXT", "End.");
    set.AddConfig();
  }

  absl::Status Parse(std::vector<std::string> arguments) { return set.Parse(arguments); }
};

std::string WriteFile(const std::string& name, const std::string& text) {
  const auto path = std::filesystem::path(testing::TempDir()) / name;
  std::ofstream(path) << text;
  return path.string();
}

TEST(FlagSet, AWordMayStandForANumber) {
  Flags flags;
  ASSERT_TRUE(flags.Parse({"--tokens", "7"}).ok());
  EXPECT_EQ(flags.tokens, 7);
  ASSERT_TRUE(flags.Parse({"--tokens", "auto"}).ok());
  EXPECT_EQ(flags.tokens, 0);
  EXPECT_EQ(flags.Parse({"--tokens", "all"}).message(),
            "--tokens takes auto or a whole number from 0 to 100, not \"all\"");
  EXPECT_THAT(flags.set.Help(), HasSubstr("--tokens auto|TOKENS"));
  EXPECT_THAT(flags.set.Help(), HasSubstr("Tokens. Default: auto."));
}

TEST(FlagSet, TakesValuesAfterASpaceOrAnEqualsSign) {
  Flags flags;
  ASSERT_TRUE(flags
                  .Parse({"--threads", "8", "--bytes=5000000000", "--address=[::1]:80", "--json",
                          "--seconds", "0.5", "--format", "json"})
                  .ok());
  EXPECT_EQ(flags.threads, 8);
  EXPECT_EQ(flags.bytes, 5'000'000'000);
  EXPECT_EQ(flags.address, "[::1]:80");
  EXPECT_TRUE(flags.json);
  EXPECT_EQ(flags.seconds, 0.5);
  EXPECT_EQ(flags.format, "json");
}

TEST(FlagSet, KeepsDefaultsOfFlagsThatAreNotGiven) {
  Flags flags;
  ASSERT_TRUE(flags.Parse({"--seed", "18446744073709551615"}).ok());
  EXPECT_EQ(flags.threads, 4);
  EXPECT_EQ(flags.temperature, std::nullopt);
  EXPECT_EQ(flags.seed, 18446744073709551615u);
  EXPECT_TRUE(flags.set.IsSet("seed"));
  EXPECT_FALSE(flags.set.IsSet("threads"));
}

TEST(FlagSet, TakesValuesThatLookLikeFlagsOrAreEmpty) {
  Flags flags;
  ASSERT_TRUE(flags.Parse({"--address", "--json", "--stop", "", "--stop=a=b"}).ok());
  EXPECT_EQ(flags.address, "--json");
  EXPECT_FALSE(flags.json);
  EXPECT_THAT(flags.stop, ElementsAre("", "a=b"));
}

TEST(FlagSet, SaysInOneLineWhatIsWrong) {
  const struct {
    std::vector<std::string> arguments;
    const char* message;
  } cases[] = {
      {{"--nope"}, "unknown flag --nope"},
      {{"--nope=1"}, "unknown flag --nope"},
      {{"--threads"}, "--threads needs a value"},
      {{"--threads", "many"}, "--threads takes a whole number from 1 to 64, not \"many\""},
      {{"--threads", "65"}, "--threads takes a whole number from 1 to 64, not \"65\""},
      {{"--threads", "2.5"}, "--threads takes a whole number from 1 to 64, not \"2.5\""},
      {{"--threads", "99999999999"},
       "--threads takes a whole number from 1 to 64, not \"99999999999\""},
      {{"--bytes", "-1"}, "--bytes takes a whole number of at least 0, not \"-1\""},
      {{"--seconds", "nan"}, "--seconds takes a number from 0 to 10, not \"nan\""},
      {{"--json=maybe"}, "--json takes true or false, not \"maybe\""},
      {{"--format", "xml"}, "--format takes text or json, not \"xml\""},
      {{"--seed", "-1"}, "--seed takes a whole number, not \"-1\""},
      {{"stray"}, "unexpected argument \"stray\""},
      {{"--config", "/nonexistent"}, "--config: can't read /nonexistent"},
  };
  for (const auto& test : cases) {
    Flags flags;
    const absl::Status status = flags.Parse(test.arguments);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()), test.message);
  }
}

TEST(FlagSet, HelpShowsUnitAndDefaultOfEveryFlagAndLooksAtNothingElse) {
  Flags flags;
  ASSERT_TRUE(flags.Parse({"--help", "--nope"}).ok());
  EXPECT_TRUE(flags.set.help_requested());
  const std::string help = flags.set.Help();
  EXPECT_THAT(help, HasSubstr("Usage: winnow test [flags]"));
  EXPECT_THAT(help, HasSubstr("--threads N                 Threads. Default: 4."));
  EXPECT_THAT(help, HasSubstr("--seconds SECONDS           Seconds. Default: 2.5."));
  EXPECT_THAT(help, HasSubstr("--format text|json          How. Default: text."));
  EXPECT_THAT(help, HasSubstr("--stop TEXT                 End. Repeatable."));
}

TEST(FlagSet, RequiresEveryPositionalArgument) {
  std::string path;
  FlagSet set("winnow inspect", "Inspects.");
  set.AddPositional("FILE", &path, "The file.");
  EXPECT_EQ(std::string(set.Parse({}).message()), "FILE is missing");
  const std::vector<std::string> arguments = {"model.gguf"};
  ASSERT_TRUE(set.Parse(arguments).ok());
  EXPECT_EQ(path, "model.gguf");
}

TEST(ConfigFile, SetsFlagsByTheirNamesInBothSpellings) {
  Flags flags;
  const std::string path = WriteFile("config.yaml",
                                     "# what we serve\n"
                                     "threads: 8\n"
                                     "\n"
                                     "  bytes = 7   # a comment\n"
                                     "address: \"[::1]:80 # part of it\"\n"
                                     "json: true\n"
                                     "stop: first\n"
                                     "stop: second\n");
  ASSERT_EQ(flags.Parse({"--config", path}), absl::OkStatus());
  EXPECT_EQ(flags.threads, 8);
  EXPECT_EQ(flags.bytes, 7);
  EXPECT_EQ(flags.address, "[::1]:80 # part of it");
  EXPECT_TRUE(flags.json);
  EXPECT_THAT(flags.stop, ElementsAre("first", "second"));
}

TEST(ConfigFile, MayBeginWithAByteOrderMarkAsSomeEditorsWriteIt) {
  Flags flags;
  const std::string path = WriteFile("bom.conf", "\uFEFFthreads: 8\r\njson: true\r\n");
  ASSERT_EQ(flags.Parse({"--config", path}), absl::OkStatus());
  EXPECT_EQ(flags.threads, 8);
  EXPECT_TRUE(flags.json);
}

TEST(ConfigFile, YieldsToTheCommandLineWhereverTheFlagsStand) {
  const std::string path =
      WriteFile("config.conf", "threads: 8\nstop: from file\nseconds: 1\njson: true\n");
  Flags flags;
  ASSERT_EQ(flags.Parse({"--threads=2", "--stop", "given", "--json=false", "--config", path}),
            absl::OkStatus());
  EXPECT_EQ(flags.threads, 2);
  EXPECT_EQ(flags.seconds, 1);
  EXPECT_FALSE(flags.json);
  EXPECT_THAT(flags.stop, ElementsAre("given"));
}

TEST(ConfigFile, NamesTheLineAtFault) {
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"threads: 8\nnope: 1\n", ":2: unknown name \"nope\""},
      {"threads 8\n", ":1: wants `name: value`, not \"threads 8\""},
      {"\nthreads: 100\n", ":2: --threads takes a whole number from 1 to 64, not \"100\""},
      {"config: other\n", ":1: unknown name \"config\""},
  };
  for (const auto& test : cases) {
    Flags flags;
    const std::string path = WriteFile("bad.conf", test.text);
    EXPECT_EQ(std::string(flags.Parse({"--config", path}).message()), path + test.message);
  }
}

TEST(FlagsTest, LimitsAreWrittenOut) {
  int tokens = 0;
  FlagSet set("test", "Tests.");
  set.Add("tokens", &tokens, "N", "Tokens.", {0, 1 << 30});
  EXPECT_THAT(std::string(set.Parse(std::vector<std::string>{"--tokens", "-1"}).message()),
              testing::HasSubstr("from 0 to 1073741824"));
}

TEST(ConfigFile, IsNoFolder) {
  Flags flags;
  const absl::Status status = flags.Parse({"--config", testing::TempDir()});
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("can't read"));
}

TEST(FlagsTest, ErrorsAreOneLineOnAnyTerminal) {
  Flags flags;
  testing::internal::CaptureStderr();
  EXPECT_EQ(Fail(flags.set, absl::InvalidArgumentError("a\x1b[2J\nb \xC2\x9B"
                                                       "caf\u00e9")),
            1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::EndsWith(": a\\x1b[2J\\x0ab \\xc2\\x9bcaf\u00e9\n"));
  testing::internal::CaptureStderr();
  EXPECT_EQ(ParseOrExitCode(flags.set, std::vector<std::string>{"--format", "x\n\x1b"}), 2);
  const std::string error = testing::internal::GetCapturedStderr();
  EXPECT_EQ(error.find('\n'), error.size() - 1) << error;
}

}  // namespace
}  // namespace winnow
