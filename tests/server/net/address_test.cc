#include "server/net/address.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

TEST(AddressTest, AHostHasAPortAndASocketAPath) {
  const struct {
    const char* text;
    Address address;
    const char* again;
    bool loopback;
  } cases[] = {
      {"127.0.0.1:50051", {"127.0.0.1", 50051, ""}, "127.0.0.1:50051", true},
      {"localhost:0", {"localhost", 0, ""}, "localhost:0", true},
      {"[::1]:80", {"::1", 80, ""}, "[::1]:80", true},
      {"0.0.0.0:65535", {"0.0.0.0", 65535, ""}, "0.0.0.0:65535", false},
      {"[::]:1", {"::", 1, ""}, "[::]:1", false},
      {"models.example.com:443", {"models.example.com", 443, ""}, "models.example.com:443", false},
      {"unix:relative/path", {"", 0, "relative/path"}, "unix:relative/path", true},
      {"unix:/run/winnow", {"", 0, "/run/winnow"}, "unix:/run/winnow", true},
      {"unix:///run/winnow", {"", 0, "/run/winnow"}, "unix:/run/winnow", true},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.text);
    const absl::StatusOr<Address> address = ParseAddress(test.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->host, test.address.host);
    EXPECT_EQ(address->port, test.address.port);
    EXPECT_EQ(address->path, test.address.path);
    EXPECT_EQ(address->Text(), test.again);
    EXPECT_EQ(address->IsLoopback(), test.loopback);
  }
}

TEST(AddressTest, SaysWhatItMustBe) {
  for (const char* text :
       {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:+1",
        "127.0.0.1: 1", "127.0.0.1:http", "127.0.0.1:1x", "127.0.0.1:4294967297"}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_EQ(std::string(status.message()),
              std::string("must be HOST:PORT with a port from 0 to 65535, or unix:PATH, is \"") +
                  text + "\"");
  }
  for (const char* text : {":50051", "[]:50051", "::1:50051", "unix:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseAddress(text).status())) << text;
  }
}

}  // namespace
}  // namespace winnow
