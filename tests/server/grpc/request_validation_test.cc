#include "server/grpc/request_validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "server/grpc/prompt.h"
#include "server/grpc/status_mapping.h"
#include "tests/server/fake_tokenizer.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using ::testing::UnorderedElementsAreArray;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kContext = 100;
constexpr char kChatMl[] =
    "{% if messages[0].content == 'bad' %}{{ raise_exception('No: ' + messages[0].content) }}"
    "{% endif %}"
    "{% for t in tools or [] %}{{ t.function.name }}({{ t.function.parameters | tojson }})\n"
    "{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n\n";

v1::ChatMessage* AddUser(v1::GenerateRequest& request) {
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  return message;
}

class RequestValidation : public testing::Test {
 protected:
  RequestValidation() {
    absl::StatusOr<ChatTemplate> chat = ChatTemplate::Create({.jinja = kChatMl});
    EXPECT_EQ(chat.status(), absl::OkStatus());
    model_ = {.name = "m",
              .title = "",
              .architecture = "",
              .context_tokens = kContext,
              .trained_context_tokens = kContext,
              .max_sequences = 64,
              .attention = {.default_policy = {.kind = SelectionKind::kLabels, .sparsity = 8},
                            .has_labels = true},
              .tokenizer = &tokenizer_,
              .chat = *std::move(chat)};
    message_.set_text("hello");
  }

  std::vector<FieldViolation> Validate() {
    return ValidateGenerate(message_, model_, /*cancelled=*/false, &request_);
  }

  FakeTokenizer tokenizer_;
  ServedModel model_;
  v1::GenerateRequest message_;
  Request request_;
};

TEST_F(RequestValidation, FillsDefaultsOfWhatIsAbsent) {
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_THAT(request_.prompt_tokens, ElementsAre(FakeTokenizer::kBos, 'h', 'e', 'l', 'l', 'o'));
  EXPECT_EQ(request_.max_tokens, kContext - 6);  // less than the default of 256
  EXPECT_EQ(request_.n, 1);
  EXPECT_EQ(request_.sampling.temperature, 1);
  EXPECT_EQ(request_.sampling.top_p, 1);
  EXPECT_EQ(request_.sampling.repetition_penalty, 1);
  EXPECT_EQ(request_.sampling.seed, std::nullopt);
  model_.context_tokens = 10'000;
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.max_tokens, kDefaultMaxTokens);
}

TEST_F(RequestValidation, WhatIsUnsetIsSampledAsTheModelsAuthorsWant) {
  model_.sampling = DefaultSampling({0.6, 0.9, 20, 0.05, 1.05});
  message_.mutable_sampling()->set_temperature(1);
  message_.mutable_sampling()->set_top_k(0);
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.sampling.temperature, 1);
  EXPECT_EQ(request_.sampling.top_k, 0);
  EXPECT_EQ(request_.sampling.top_p, 0.9f);
  EXPECT_EQ(request_.sampling.min_p, 0.05f);
  EXPECT_EQ(request_.sampling.repetition_penalty, 1.05f);
  message_.clear_sampling();
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.sampling.temperature, 0.6f);
  EXPECT_EQ(request_.sampling.top_k, 20);
}

TEST_F(RequestValidation, CarriesEveryFieldOver) {
  v1::SamplingParams* sampling = message_.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_k(5);
  sampling->set_top_p(0.5f);
  sampling->set_min_p(0.25f);
  sampling->set_repetition_penalty(1.5f);
  sampling->set_presence_penalty(-2);
  sampling->set_frequency_penalty(2);
  sampling->set_seed(0);
  (*sampling->mutable_logit_bias())[7] = 100;
  (*sampling->mutable_logit_bias())[3] = -kInfinity;
  message_.mutable_stop()->set_max_tokens(94);
  message_.mutable_stop()->add_strings("END");
  message_.mutable_stop()->add_token_ids(9);
  message_.mutable_stop()->set_ignore_eos(true);
  message_.set_n(16);
  message_.set_logprobs(true);
  message_.set_top_logprobs(20);
  message_.set_render_special(true);
  message_.set_cache_salt(std::string(256, 's'));
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.sampling.temperature, 0);
  EXPECT_EQ(request_.sampling.top_k, 5);
  EXPECT_EQ(request_.sampling.top_p, 0.5f);
  EXPECT_EQ(request_.sampling.min_p, 0.25f);
  EXPECT_EQ(request_.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request_.sampling.presence_penalty, -2);
  EXPECT_EQ(request_.sampling.frequency_penalty, 2);
  EXPECT_EQ(request_.sampling.seed, 0);
  EXPECT_THAT(request_.sampling.logit_bias, ElementsAre(Pair(3, -kInfinity), Pair(7, 100)));
  EXPECT_EQ(request_.max_tokens, 94);
  EXPECT_THAT(request_.stop, ElementsAre("END"));
  EXPECT_THAT(request_.stop_token_ids, ElementsAre(9));
  EXPECT_TRUE(request_.ignore_eos);
  EXPECT_EQ(request_.n, 16);
  EXPECT_TRUE(request_.logprobs);
  EXPECT_EQ(request_.top_logprobs, 20);
  EXPECT_TRUE(request_.render_special);
  EXPECT_EQ(request_.cache_salt, std::string(256, 's'));
}

TEST_F(RequestValidation, SaltsAreBounded) {
  message_.set_text("abc");
  message_.set_cache_salt(std::string(257, 's'));
  const std::vector<FieldViolation> violations = Validate();
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "cache_salt");
}

TEST_F(RequestValidation, AnOutlinesPriorityIsWithinTheOperatorsLimits) {
  message_.set_priority(-1000);
  EXPECT_EQ(Outline(message_, model_).priority, model_.min_priority);
  message_.set_priority(1000);
  EXPECT_EQ(Outline(message_, model_).priority, kMaxPriority);
}

TEST_F(RequestValidation, OutlinesWhatCountsForTheQueueWhateverIsWrongWithTheRest) {
  message_.set_priority(3);
  message_.set_n(-5);
  message_.mutable_stop()->set_max_tokens(40);
  const Request outline = Outline(message_, model_);
  EXPECT_EQ(outline.priority, 3);
  EXPECT_EQ(outline.n, 1);
  EXPECT_EQ(outline.max_tokens, 40);
  EXPECT_TRUE(outline.prompt_tokens.empty());
  EXPECT_EQ(Outline(v1::GenerateRequest(), model_).max_tokens, 1);
}

TEST_F(RequestValidation, UsesTokensAsTheyAre) {
  message_.mutable_tokens()->add_ids(0);
  message_.mutable_tokens()->add_ids(FakeTokenizer::kVocabSize - 1);
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_THAT(request_.prompt_tokens, ElementsAre(0, FakeTokenizer::kVocabSize - 1));
}

TEST_F(RequestValidation, RendersChatWithTheModelsTemplate) {
  v1::ChatMessage* chat = message_.mutable_chat()->add_messages();
  chat->set_role("user");
  chat->set_content("hi");
  ASSERT_THAT(Validate(), IsEmpty());
  const std::string text(request_.prompt_tokens.begin(), request_.prompt_tokens.end());
  EXPECT_EQ(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(RequestValidation, RendersToolsPartsAndCalls) {
  v1::ChatMessage* user = AddUser(message_);
  user->add_parts()->set_text("a");
  user->add_parts()->set_text("b");
  v1::Tool* tool = message_.mutable_chat()->add_tools();
  tool->set_name("f");
  tool->set_parameters("{\"b\":1,\"a\":2.0}");
  ASSERT_THAT(Validate(), IsEmpty());
  const std::string text(request_.prompt_tokens.begin(), request_.prompt_tokens.end());
  EXPECT_EQ(text,
            "f({\"b\": 1, \"a\": 2.0})\n<|im_start|>user\na\nb<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST_F(RequestValidation, ControlTokensAreParsedInTextAndNotInMessages) {
  message_.set_text("a<eos>");
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_THAT(request_.prompt_tokens, ElementsAre(FakeTokenizer::kBos, 'a', FakeTokenizer::kEos));
  v1::ChatMessage* chat = message_.mutable_chat()->add_messages();
  chat->set_role("user");
  chat->set_content("a<eos>");
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_THAT(request_.prompt_tokens, testing::Not(testing::Contains(FakeTokenizer::kEos)));
}

TEST_F(RequestValidation, NamesTheFieldAndTheLimitOfEachViolation) {
  using Message = v1::GenerateRequest;
  const struct {
    const char* field;
    const char* description;
    std::function<void(Message&)> change;
  } cases[] = {
      {"prompt", "one of text, tokens and chat must be set", [](Message& m) { m.clear_prompt(); }},
      {"tokens", "the prompt must have at least one token", [](Message& m) { m.mutable_tokens(); }},
      {"tokens.ids[1]", "must be a token id from 0 to 259, is 260",
       [](Message& m) {
         m.mutable_tokens()->add_ids(1);
         m.mutable_tokens()->add_ids(260);
         m.mutable_tokens()->add_ids(-1);
       }},
      {"tokens.ids[0]", "must be a token id from 0 to 259, is -1",
       [](Message& m) { m.mutable_tokens()->add_ids(-1); }},
      {"text", "the prompt has 100 tokens; with a context of 100 it may have 99",
       [](Message& m) { m.set_text(std::string(99, 'x')); }},
      {"chat.messages", nullptr, [](Message& m) { m.mutable_chat(); }},
      {"chat.messages[0].role", "must be system, developer, user, assistant or tool, is 'nobody'",
       [](Message& m) { m.mutable_chat()->add_messages()->set_role("nobody"); }},
      {"chat.messages[0].parts", "must be empty where content is set",
       [](Message& m) {
         AddUser(m)->set_content("x");
         m.mutable_chat()->mutable_messages(0)->add_parts()->set_text("y");
       }},
      {"chat.messages[0].parts[1]", "must have a text",
       [](Message& m) {
         v1::ChatMessage* user = AddUser(m);
         user->add_parts()->set_text("");
         user->add_parts();
       }},
      {"chat.messages[0].tool_calls", "are for the role assistant only",
       [](Message& m) { AddUser(m)->add_tool_calls()->set_name("f"); }},
      {"chat.messages[1].tool_calls[0].name", "must not be empty",
       [](Message& m) {
         AddUser(m);
         AddUser(m)->set_role("assistant");
         m.mutable_chat()->mutable_messages(1)->add_tool_calls();
       }},
      {"chat.messages[0]", "tool_call_id and name are for the role tool only",
       [](Message& m) { AddUser(m)->set_tool_call_id("1"); }},
      {"chat.messages[0].name", "has 257 bytes, most are 256",
       [](Message& m) {
         AddUser(m)->set_role("tool");
         m.mutable_chat()->mutable_messages(0)->set_name(std::string(257, 'n'));
       }},
      {"chat.tools[0].name", "must not be empty",
       [](Message& m) {
         AddUser(m);
         m.mutable_chat()->add_tools();
       }},
      {"chat.tools[0].parameters", "is not JSON",
       [](Message& m) {
         AddUser(m);
         v1::Tool* tool = m.mutable_chat()->add_tools();
         tool->set_name("f");
         tool->set_parameters("{");
       }},
      {"chat.tools", "has 129 functions, most are 128",
       [](Message& m) {
         AddUser(m);
         for (int i = 0; i < 129; ++i) m.mutable_chat()->add_tools()->set_name("f");
       }},
      {"chat.template_arguments['messages']", "is set by the server",
       [](Message& m) {
         AddUser(m);
         (*m.mutable_chat()->mutable_template_arguments())["messages"] = "[]";
       }},
      {"chat.template_arguments['a b']", "must be named by letters, digits and underscores",
       [](Message& m) {
         AddUser(m);
         (*m.mutable_chat()->mutable_template_arguments())["a b"] = "1";
       }},
      {"chat.template_arguments['deep']", "is nested more than 32 levels deep",
       [](Message& m) {
         AddUser(m);
         (*m.mutable_chat()->mutable_template_arguments())["deep"] =
             std::string(33, '[') + std::string(33, ']');
       }},
      {"chat.messages", "the model's chat template refuses: No: bad",
       [](Message& m) { AddUser(m)->set_content("bad"); }},
      {"priority", "must be from 0 to 100, is -1", [](Message& m) { m.set_priority(-1); }},
      {"priority", "must be from 0 to 100, is 101", [](Message& m) { m.set_priority(101); }},
      {"stop.max_tokens", "must be at least 1, is 0",
       [](Message& m) { m.mutable_stop()->set_max_tokens(0); }},
      {"stop.max_tokens", "must be at least 1, is -2147483648",
       [](Message& m) { m.mutable_stop()->set_max_tokens(std::numeric_limits<int>::min()); }},
      {"stop.max_tokens",
       "must be at most 94, what a prompt of 6 tokens leaves of the context of 100, is 95",
       [](Message& m) { m.mutable_stop()->set_max_tokens(95); }},
      {"stop.max_tokens",
       "must be at most 94, what a prompt of 6 tokens leaves of the context of 100, is 2147483647",
       [](Message& m) { m.mutable_stop()->set_max_tokens(std::numeric_limits<int>::max()); }},
      {"stop.strings", "has 17 strings, most are 16",
       [](Message& m) {
         for (int i = 0; i < 17; ++i) m.mutable_stop()->add_strings("x");
       }},
      {"stop.strings[1]", "must be 1 to 256 bytes long, has 0",
       [](Message& m) {
         m.mutable_stop()->add_strings("x");
         m.mutable_stop()->add_strings("");
       }},
      {"stop.strings[0]", "must be 1 to 256 bytes long, has 257",
       [](Message& m) { m.mutable_stop()->add_strings(std::string(257, 'x')); }},
      {"stop.token_ids", "has 65 tokens, most are 64",
       [](Message& m) {
         for (int i = 0; i < 65; ++i) m.mutable_stop()->add_token_ids(i);
       }},
      {"stop.token_ids[0]", "must be a token id from 0 to 259, is 260",
       [](Message& m) { m.mutable_stop()->add_token_ids(260); }},
      {"n", "must be from 1 to 16, is 0", [](Message& m) { m.set_n(0); }},
      {"n", "must be from 1 to 16, is 17", [](Message& m) { m.set_n(17); }},
      {"top_logprobs", "must be from 0 to 20, is 21",
       [](Message& m) {
         m.set_logprobs(true);
         m.set_top_logprobs(21);
       }},
      {"top_logprobs", "must be from 0 to 20, is -1", [](Message& m) { m.set_top_logprobs(-1); }},
      {"top_logprobs", "needs logprobs to be true", [](Message& m) { m.set_top_logprobs(1); }},
      {"sampling.temperature", "must be from 0 to 100, is -0.5",
       [](Message& m) { m.mutable_sampling()->set_temperature(-0.5f); }},
      {"sampling.temperature", "must be from 0 to 100, is nan",
       [](Message& m) { m.mutable_sampling()->set_temperature(kNan); }},
      {"sampling.temperature", "must be from 0 to 100, is inf",
       [](Message& m) { m.mutable_sampling()->set_temperature(kInfinity); }},
      {"sampling.top_k", "must be at least 0, is -1",
       [](Message& m) { m.mutable_sampling()->set_top_k(-1); }},
      {"sampling.top_p", "must be above 0 and at most 1, is 0",
       [](Message& m) { m.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p", "must be above 0 and at most 1, is 1.5",
       [](Message& m) { m.mutable_sampling()->set_top_p(1.5f); }},
      {"sampling.top_p", "must be above 0 and at most 1, is nan",
       [](Message& m) { m.mutable_sampling()->set_top_p(kNan); }},
      {"sampling.min_p", "must be at least 0 and below 1, is 1",
       [](Message& m) { m.mutable_sampling()->set_min_p(1); }},
      {"sampling.min_p", "must be at least 0 and below 1, is nan",
       [](Message& m) { m.mutable_sampling()->set_min_p(kNan); }},
      {"sampling.repetition_penalty", "must be from 0.01 to 10, is 1e-30",
       [](Message& m) { m.mutable_sampling()->set_repetition_penalty(1e-30f); }},
      {"sampling.repetition_penalty", "must be from 0.01 to 10, is 11",
       [](Message& m) { m.mutable_sampling()->set_repetition_penalty(11); }},
      {"sampling.presence_penalty", "must be from -2 to 2, is 2.5",
       [](Message& m) { m.mutable_sampling()->set_presence_penalty(2.5f); }},
      {"sampling.frequency_penalty", "must be from -2 to 2, is nan",
       [](Message& m) { m.mutable_sampling()->set_frequency_penalty(kNan); }},
      {"sampling.logit_bias", "has 1025 entries, most are 1024",
       [](Message& m) {
         for (int i = 0; i < 1025; ++i) (*m.mutable_sampling()->mutable_logit_bias())[i] = 0;
       }},
      {"sampling.logit_bias[260]", "must be a token id from 0 to 259",
       [](Message& m) { (*m.mutable_sampling()->mutable_logit_bias())[260] = 1; }},
      {"sampling.logit_bias[5]", "must be from -100 to 100 or -infinity, is inf",
       [](Message& m) { (*m.mutable_sampling()->mutable_logit_bias())[5] = kInfinity; }},
      {"sampling.logit_bias[5]", "must be from -100 to 100 or -infinity, is nan",
       [](Message& m) { (*m.mutable_sampling()->mutable_logit_bias())[5] = kNan; }},
  };
  const v1::GenerateRequest valid = message_;
  for (const auto& test : cases) {
    message_ = valid;
    test.change(message_);
    request_ = Request();
    bool found = false;
    for (const FieldViolation& violation : Validate()) {
      found |= violation.field == test.field &&
               (test.description == nullptr || violation.description == test.description);
    }
    EXPECT_TRUE(found) << test.field << ": "
                       << (test.description ? test.description : "any description");
  }
}

TEST_F(RequestValidation, TheOperatorsLimitsHold) {
  message_.set_text("hello");  // six tokens with BOS
  message_.set_n(3);
  message_.mutable_stop()->add_strings("a");
  message_.mutable_stop()->add_strings("b");
  (*message_.mutable_sampling()->mutable_logit_bias())[1] = 1;
  (*message_.mutable_sampling()->mutable_logit_bias())[2] = 1;
  model_.limits = {.prompt_tokens = 6, .n = 3, .stop_strings = 2, .logit_bias_entries = 2};
  EXPECT_THAT(Validate(), IsEmpty());
  model_.limits = {.prompt_tokens = 5, .n = 2, .stop_strings = 1, .logit_bias_entries = 1};
  std::vector<std::string> violations;
  for (const FieldViolation& violation : Validate()) {
    violations.push_back(violation.field + ": " + violation.description);
  }
  EXPECT_THAT(violations, UnorderedElementsAre("text: the prompt has 6 tokens; here it may have 5",
                                               "n: must be from 1 to 2, is 3",
                                               "stop.strings: has 2 strings, most are 1",
                                               "sampling.logit_bias: has 2 entries, most are 1"));
}

TEST_F(RequestValidation, ReportsAllViolationsAtOnce) {
  message_.set_n(0);
  message_.mutable_sampling()->set_top_p(2);
  message_.mutable_sampling()->set_temperature(-1);
  message_.mutable_stop()->add_strings("");
  std::vector<std::string> fields;
  for (const FieldViolation& violation : Validate()) fields.push_back(violation.field);
  const std::vector<std::string> expected = {"sampling.temperature", "sampling.top_p",
                                             "stop.strings[0]", "n"};
  EXPECT_THAT(fields, UnorderedElementsAreArray(expected));
}

TEST_F(RequestValidation, RefusalsFitIntoHeadersWhateverTheRequestSays) {
  constexpr size_t kHeaderBytes = 8192;  // what gRPC clients take by default
  message_.mutable_attention()->set_policy(std::string(100'000, 'p'));
  message_.mutable_chat()->add_messages()->set_role("\u00e9" + std::string(100'000, 'r'));
  for (int i = 0; i < 10'000; ++i) message_.mutable_stop()->add_strings("");
  const std::vector<FieldViolation> violations = Validate();
  EXPECT_EQ(violations.size(), 4u);  // two of the stop strings: their number, and the first one
  const grpc::Status status = ToGrpcStatus(Invalid(violations));
  EXPECT_LT(3 * status.error_message().size() + 2 * status.error_details().size(), kHeaderBytes);
  EXPECT_LT(CheckModelName(std::string(100'000, 'm'), model_).message().size(), 500u);
}

TEST_F(RequestValidation, AllowsNoMoreContinuationsThanTheEngineComputesAtATime) {
  model_.max_sequences = 4;
  message_.set_n(5);
  ASSERT_EQ(Validate().size(), 1u);
  EXPECT_EQ(Validate()[0].description, "must be from 1 to 4, is 5");
}

TEST_F(RequestValidation, RefusesChatWithoutATemplate) {
  model_.chat = std::nullopt;
  v1::ChatMessage* chat = message_.mutable_chat()->add_messages();
  chat->set_role("user");
  chat->set_content("hi");
  const auto violations = Validate();
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "chat");
}

TEST_F(RequestValidation, AttentionIsTheServersUnlessTheRequestSays) {
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.attention.kind, SelectionKind::kLabels);
  EXPECT_EQ(request_.attention.sparsity, 8);
  message_.mutable_attention()->set_sparsity(32);
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.attention.kind, SelectionKind::kLabels);
  EXPECT_EQ(request_.attention.sparsity, 32);
  message_.mutable_attention()->clear_sparsity();
  message_.mutable_attention()->set_policy("window");
  message_.mutable_attention()->set_budget_tokens(20);
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.attention.kind, SelectionKind::kWindow);
  EXPECT_EQ(request_.attention.budget_tokens, 20);
  message_.mutable_attention()->clear_budget_tokens();
  message_.mutable_attention()->set_policy("dense");
  ASSERT_THAT(Validate(), IsEmpty());
  EXPECT_EQ(request_.attention.kind, SelectionKind::kAll);
}

TEST_F(RequestValidation, AttentionStaysWithinTheOperatorsLimits) {
  const auto field = [&] {
    const std::vector<FieldViolation> violations = Validate();
    return violations.size() == 1 ? violations[0].field : "";
  };
  v1::AttentionPolicy* attention = message_.mutable_attention();
  for (const char* policy : {"sparse", "true-scores", "Dense"}) {
    attention->set_policy(policy);
    EXPECT_EQ(field(), "attention.policy") << policy;
  }
  attention->set_policy("double-sparsity");
  for (const double sparsity : {0.0, 0.5, 65.0, -1.0, double{NAN}, double{kInfinity}}) {
    attention->set_sparsity(sparsity);
    EXPECT_EQ(field(), "attention.sparsity") << sparsity;
  }
  attention->set_sparsity(4);
  attention->set_budget_tokens(50);
  EXPECT_EQ(field(), "attention.budget_tokens");  // both
  attention->clear_sparsity();
  for (const int budget : {-5, 0, 1, 101}) {  // of a context of 100, at most 64 times sparser
    attention->set_budget_tokens(budget);
    EXPECT_EQ(field(), "attention.budget_tokens") << budget;
  }
  attention->set_budget_tokens(2);
  EXPECT_EQ(field(), "");
  attention->set_policy("dense");
  EXPECT_EQ(field(), "attention");  // a budget makes no sense
  attention->clear_budget_tokens();
  model_.attention.min_sparsity = 2;
  EXPECT_EQ(field(), "attention.policy");
  attention->set_policy("double-sparsity");
  model_.attention.has_labels = false;
  EXPECT_EQ(field(), "attention.policy");
}

TEST_F(RequestValidation, KnowsOneModelNameAndTheEmptyOne) {
  EXPECT_EQ(CheckModelName("", model_), absl::OkStatus());
  EXPECT_EQ(CheckModelName("m", model_), absl::OkStatus());
  EXPECT_EQ(CheckModelName("other", model_).code(), absl::StatusCode::kNotFound);
}

TEST_F(RequestValidation, TokenizesWithSpecialTokensAndBosUnlessToldOtherwise) {
  v1::TokenizeRequest message;
  std::vector<int32_t> tokens;
  message.set_text("a<eos>");
  ASSERT_THAT(ReadInput(message, model_, /*cancelled=*/false, &tokens), IsEmpty());
  EXPECT_THAT(tokens, ElementsAre(FakeTokenizer::kBos, 'a', FakeTokenizer::kEos));
  message.set_parse_special(false);
  message.set_add_bos(false);
  ASSERT_THAT(ReadInput(message, model_, /*cancelled=*/false, &tokens), IsEmpty());
  EXPECT_THAT(tokens, ElementsAre('a', '<', 'e', 'o', 's', '>'));
  message.clear_input();
  EXPECT_EQ(ReadInput(message, model_, /*cancelled=*/false, &tokens).at(0).field, "input");
}

TEST_F(RequestValidation, ATextThatMustBecomeTooManyTokensIsNotTokenized) {
  tokenizer_.before_encode = [](auto, const auto&) { FAIL() << "it was"; };
  message_.set_text(std::string(2500, 'x'));  // at most 5 bytes a token
  message_.set_n(0);
  std::vector<FieldViolation> violations = Validate();
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "text");
  EXPECT_EQ(violations[0].description, "the prompt has more than 499 tokens; here it may have 99");
  EXPECT_EQ(violations[1].field, "n");
  message_.set_n(1);
  message_.mutable_chat()->add_messages()->set_role("user");
  message_.mutable_chat()->mutable_messages(0)->set_content(std::string(2500, 'x'));
  violations = Validate();
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "chat");
}

TEST_F(RequestValidation, AnAnswerInOneMessageHasABound) {
  model_.mean_token_bytes = 7;
  request_.n = 16;
  request_.max_tokens = 700;
  request_.logprobs = true;
  request_.top_logprobs = 20;
  const std::vector<FieldViolation> violations = CheckAnswer(request_, model_);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "stop.max_tokens");
  EXPECT_EQ(violations[0].description,
            "with n and top_logprobs asks for an answer of some 4849600 bytes; one message may "
            "have 4194304, Generate streams them");
  request_.top_logprobs = 15;
  EXPECT_THAT(CheckAnswer(request_, model_), IsEmpty());
  request_.logprobs = false;
  request_.max_tokens = 20'000;
  EXPECT_THAT(CheckAnswer(request_, model_), IsEmpty());
}

TEST_F(RequestValidation, DetokenizesKnownTokensOnly) {
  v1::DetokenizeRequest message;
  EXPECT_THAT(ValidateDetokenize(message, model_), IsEmpty());
  message.add_token_ids(FakeTokenizer::kVocabSize);
  EXPECT_EQ(ValidateDetokenize(message, model_).at(0).field, "token_ids[0]");
}

}  // namespace
}  // namespace winnow
