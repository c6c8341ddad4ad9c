#include "tests/chaos/bad_clients.h"

#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/chaos/raw_connection.h"
#include "tests/chaos/tokens.h"
#include "tests/integration/client.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {
namespace {

constexpr std::string_view kGenerate = "/winnow.v1.GenerationService/Generate";
constexpr absl::Duration kAnswerLimit = absl::Seconds(5);

uint32_t Below(std::mt19937& random, uint32_t limit) { return random() % limit; }

std::string RandomBytes(std::mt19937& random, uint32_t most) {
  std::string bytes(Below(random, most + 1), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::unique_ptr<v1::GenerationService::Stub> NewStub(const std::string& address) {
  return v1::GenerationService::NewStub(Connect(address, kBadToken));
}

/// More tokens than there is time for.
v1::GenerateRequest LongRequest() { return Greedy("The history of bread begins", 450); }

/// Sends what is built upon a new connection, waits a little for an answer, and leaves.
std::string SendRaw(const std::string& address, std::mt19937& random, std::string_view bytes) {
  RawConnection connection(address);
  if (!connection.connected()) return "the server does not accept connections";
  connection.Send(bytes);
  connection.Receive(100, absl::Milliseconds(50));
  if (Below(random, 2) == 0) connection.Reset();
  return "";
}

// --- Clients that leave ------------------------------------------------------------------------

std::string Cancels(const std::string& address, std::mt19937& random) {
  const auto stub = NewStub(address);
  Stream stream(*stub, LongRequest());
  stream.ReadTokens(static_cast<int>(Below(random, 6)));
  stream.Cancel();
  if (Below(random, 2) == 0) stream.Finish();
  return "";
}

std::string Expires(const std::string& address, std::mt19937& random) {
  const auto stub = NewStub(address);
  Stream stream(*stub, LongRequest(), absl::Milliseconds(1 + Below(random, 200)));
  return stream.Finish().status.ok() ? "a call of 450 tokens met a deadline of 0.2 s" : "";
}

std::string VanishesMidStream(const std::string& address, std::mt19937& random) {
  RawConnection connection(address);
  connection.Send(Http2Opening() + MakeCall(1, kGenerate, LongRequest().SerializeAsString()));
  connection.Receive(100 + Below(random, 1000), kAnswerLimit);
  connection.Reset();
  return "";
}

std::string LeavesHalfARequest(const std::string& address, std::mt19937& random) {
  const std::string whole =
      Http2Opening() + MakeCall(1, kGenerate, LongRequest().SerializeAsString());
  return SendRaw(
      address, random,
      std::string_view(whole).substr(0, Below(random, static_cast<uint32_t>(whole.size()))));
}

// --- Clients that hold on ----------------------------------------------------------------------

std::string StopsReading(const std::string& address, std::mt19937& random) {
  const auto stub = NewStub(address);
  v1::GenerateRequest wide = LongRequest();
  wide.set_logprobs(true);
  wide.set_top_logprobs(20);
  Stream stream(*stub, wide);
  stream.ReadTokens(1);
  absl::SleepFor(absl::Milliseconds(1000 + Below(random, 4000)));
  stream.Cancel();
  return "";
}

std::string SendsSlowly(const std::string& address, std::mt19937& random) {
  const std::string whole =
      Http2Opening() + MakeCall(1, kGenerate, LongRequest().SerializeAsString());
  RawConnection connection(address);
  for (const char byte : whole) {
    if (!connection.Send({&byte, 1}) || Below(random, 200) == 0) break;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return "";
}

std::string StormsWithConnections(const std::string& address, std::mt19937& random) {
  std::vector<std::unique_ptr<RawConnection>> connections;
  for (int i = 0; i < 100; ++i) {
    connections.push_back(std::make_unique<RawConnection>(address));
    if (i % 2 == 0) connections.back()->Send(Http2Opening());
  }
  absl::SleepFor(absl::Milliseconds(Below(random, 500)));
  for (size_t i = 0; i < connections.size(); i += 3) connections[i]->Reset();
  return "";
}

// --- Messages that are wrong -------------------------------------------------------------------

std::string ExpectCode(const char* what, const grpc::Status& status, grpc::StatusCode code) {
  if (status.error_code() == code) return "";
  return absl::StrCat(what, " was answered with code ", static_cast<int>(status.error_code()), ": ",
                      status.error_message());
}

std::string SendsAnOversizeMessage(const std::string& address, std::mt19937& /*random*/) {
  const auto stub = NewStub(address);
  return ExpectCode("a message of 5 MB",
                    Complete(*stub, Greedy(std::string(5'000'000, 'x'), 1)).status,
                    grpc::StatusCode::RESOURCE_EXHAUSTED);
}

std::string SendsAnInvalidRequest(const std::string& address, std::mt19937& random) {
  v1::GenerateRequest request = Greedy("x", 1);
  switch (Below(random, 6)) {
    case 0:
      request.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
      break;
    case 1:
      request.mutable_tokens()->add_ids(static_cast<int>(random()) | 1 << 30);
      break;
    case 2:
      request.set_n(-static_cast<int>(Below(random, 1000)));
      break;
    case 3:  // as many violations as fit
      for (int i = 0; i < 100'000; ++i) request.mutable_stop()->add_strings("");
      break;
    case 4:
      request.mutable_attention()->set_policy(std::string(1'000'000, 'p'));
      break;
    default:
      request.mutable_chat()->add_messages()->set_role(std::string(100'000, 'r'));
      break;
  }
  const auto stub = NewStub(address);
  return ExpectCode("an invalid request", Complete(*stub, request).status,
                    grpc::StatusCode::INVALID_ARGUMENT);
}

std::string GuessesAToken(const std::string& address, std::mt19937& random) {
  const auto stub = v1::GenerationService::NewStub(Connect(address, absl::StrCat(random())));
  return ExpectCode("a guessed token", Complete(*stub, LongRequest()).status,
                    grpc::StatusCode::UNAUTHENTICATED);
}

std::string TokenizesMuch(const std::string& address, std::mt19937& random) {
  const auto stub = v1::TokenizerService::NewStub(Connect(address, kBadToken));
  grpc::ClientContext call;
  call.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(20)));
  v1::TokenizeRequest request;
  request.set_text(std::string(100'000, static_cast<char>('a' + Below(random, 26))));
  v1::TokenizeResponse response;
  stub->Tokenize(&call, request, &response);
  return "";
}

std::string SendsNoProtobuf(const std::string& address, std::mt19937& random) {
  return SendRaw(address, random,
                 Http2Opening() + MakeCall(1, kGenerate, RandomBytes(random, 200)));
}

std::string LiesAboutTheLength(const std::string& address, std::mt19937& random) {
  const std::string length_of_4_gb("\0\xff\xff\xff\xff", 5);
  return SendRaw(address, random,
                 Http2Opening() + MakeFrame(kHeadersFrame, kEndHeaders, 1, CallFields(kGenerate)) +
                     MakeFrame(kDataFrame, 0, 1, length_of_4_gb + RandomBytes(random, 100)));
}

std::string SendsBadCompression(const std::string& address, std::mt19937& random) {
  std::string message = GrpcMessage(RandomBytes(random, 100));
  message[0] = 1;  // compressed
  const std::string fields =
      CallFields(kGenerate) + HeaderField("grpc-encoding", Below(random, 2) ? "gzip" : "zork");
  return SendRaw(address, random,
                 Http2Opening() + MakeFrame(kHeadersFrame, kEndHeaders, 1, fields) +
                     MakeFrame(kDataFrame, kEndStream, 1, message));
}

// --- HTTP/2 that is wrong ----------------------------------------------------------------------

std::string SendsGarbage(const std::string& address, std::mt19937& random) {
  return SendRaw(address, random, RandomBytes(random, 4000));
}

std::string SendsRandomFrames(const std::string& address, std::mt19937& random) {
  std::string frames = Http2Opening();
  for (uint32_t left = 1 + Below(random, 20); left > 0; --left) {
    frames += MakeFrame(static_cast<uint8_t>(Below(random, 12)), static_cast<uint8_t>(random()),
                        Below(random, 6), RandomBytes(random, 100));
  }
  return SendRaw(address, random, frames);
}

std::string SendsBadHeaders(const std::string& address, std::mt19937& random) {
  std::string fields;
  switch (Below(random, 5)) {
    case 0:
      fields = CallFields(kGenerate) + HeaderField("grpc-timeout", "-1Q");
      break;
    case 1:
      fields = CallFields("/winnow.v1.GenerationService/Nothing");
      break;
    case 2:
      fields = CallFields(kGenerate) + HeaderField("Upper-Case", "\x01\x02");
      break;
    case 3:
      fields = CallFields(kGenerate) + HeaderField("key-bin", "not base64!");
      break;
    default:
      fields = RandomBytes(random, 300);
      break;
  }
  const std::string message = GrpcMessage(LongRequest().SerializeAsString());
  return SendRaw(address, random,
                 Http2Opening() + MakeFrame(kHeadersFrame, kEndHeaders, 1, fields) +
                     MakeFrame(kDataFrame, kEndStream, 1, message));
}

std::string SendsHugeHeaders(const std::string& address, std::mt19937& random) {
  std::string bytes = Http2Opening() + MakeFrame(kHeadersFrame, 0, 1, CallFields(kGenerate));
  for (int i = 0; i < 50; ++i) {
    bytes += MakeFrame(kContinuationFrame, 0, 1,
                       HeaderField(absl::StrCat("x-", i), std::string(8000, 'v')));
  }
  return SendRaw(address, random, bytes);
}

std::string ResetsRapidly(const std::string& address, std::mt19937& random) {
  std::string bytes = Http2Opening();
  const std::string message = LongRequest().SerializeAsString();
  const std::string cancel("\0\0\0\x08", 4);
  for (uint32_t stream = 1; stream < 100; stream += 2) {
    bytes += MakeCall(stream, kGenerate, message) + MakeFrame(kResetFrame, 0, stream, cancel);
  }
  return SendRaw(address, random, bytes);
}

std::string Floods(const std::string& address, std::mt19937& random) {
  const std::string ping = MakeFrame(kPingFrame, 0, 0, std::string(8, 'p'));
  const std::string settings = MakeFrame(kSettingsFrame, 0, 0, "");
  std::string bytes = Http2Opening();
  for (int i = 0; i < 1000; ++i) bytes += Below(random, 2) == 0 ? ping : settings;
  return SendRaw(address, random, bytes);
}

constexpr BadClient kBadClients[] = {
    {"cancels", Cancels, false},
    {"expires", Expires, false},
    {"vanishes mid-stream", VanishesMidStream, false},
    {"leaves half a request", LeavesHalfARequest, false},
    {"stops reading", StopsReading, true},
    {"sends slowly", SendsSlowly, true},
    {"storms with 100 connections", StormsWithConnections, true},
    {"oversize message", SendsAnOversizeMessage, false},
    {"invalid request", SendsAnInvalidRequest, false},
    {"guesses a token", GuessesAToken, false},
    {"tokenizes much", TokenizesMuch, false},
    {"no protobuf", SendsNoProtobuf, false},
    {"lies about the length", LiesAboutTheLength, false},
    {"bad compression", SendsBadCompression, false},
    {"garbage", SendsGarbage, false},
    {"random frames", SendsRandomFrames, false},
    {"bad headers", SendsBadHeaders, false},
    {"huge headers", SendsHugeHeaders, false},
    {"rapid resets", ResetsRapidly, false},
    {"floods", Floods, false},
};

}  // namespace

std::span<const BadClient> BadClients() { return kBadClients; }

}  // namespace winnow
