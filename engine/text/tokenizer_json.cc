#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/added_tokens.h"
#include "engine/text/json_value.h"
#include "engine/text/spelling.h"
#include "engine/text/tokenizer_json_steps.h"

namespace winnow {
namespace {

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

/// Reads the parts of a file one after the other; each needs those before it.
class JsonVocabulary {
 public:
  JsonVocabulary(const JsonValue& json, absl::Status& fault) : json_(json), fault_(fault) {}

  absl::StatusOr<Vocabulary> Read() {
    const JsonValue model = json_["model"];
    read_.model = model["type"].String(model["merges"].IsNull() ? "Unigram" : "BPE");
    if (read_.model != "BPE" && read_.model != "Unigram") {
      model.Unsupported(absl::StrCat("is of the type '", read_.model,
                                     "'; the models that Winnow knows are 'BPE' and 'Unigram'"));
    }
    for (void (JsonVocabulary::*part)() :
         {&JsonVocabulary::ReadTokens, &JsonVocabulary::ReadSteps, &JsonVocabulary::ReadAddedTokens,
          &JsonVocabulary::ReadModel, &JsonVocabulary::ReadPrefix}) {
      if (!fault_.ok()) return fault_;
      (this->*part)();
    }
    if (!fault_.ok()) return fault_;
    return std::move(read_);
  }

 private:
  bool unigram() const { return read_.model == "Unigram"; }

  void ReadTokens() {
    const JsonValue vocab = json_["model"]["vocab"];
    if (unigram() ? !vocab.IsArray() : !vocab.IsObject()) {
      return vocab.Fault(unigram() ? "is no array" : "is no object");
    }
    const size_t added = json_["added_tokens"].size();
    max_tokens_ = MaxTokens(vocab.size() + added);
    if (max_tokens_ > INT32_MAX) return vocab.Fault("has too many tokens");
    if (!unigram()) {
      for (const auto& [token, id] : vocab.json().items()) {
        AddToken(token, JsonValue(id, absl::StrCat(vocab.name(), "['", token, "']"), fault_));
      }
      return;
    }
    for (size_t i = 0; i < vocab.size() && fault_.ok(); ++i) {
      const JsonValue entry = vocab.At(i);
      if (!entry.IsArray() || entry.size() != 2) return entry.Fault("is no pair");
      const std::string token = entry.At(0).String();
      const double score = entry.At(1).Number();
      if (!std::isfinite(score)) return entry.Fault("has a score that is no number");
      Place(token, static_cast<int32_t>(i));
      read_.scores.push_back(score);
      ids_.emplace(token, static_cast<int32_t>(i));
    }
    if (read_.scores.empty()) vocab.Fault("is empty");
  }

  void AddToken(const std::string& token, const JsonValue& id) {
    const std::optional<int32_t> checked = TokenId(id);
    if (!checked) return;
    if (!Place(token, *checked)) {
      return id.Fault(absl::StrCat("is ", *checked, ", as '", read_.tokens[*checked], "' is"));
    }
    ids_.emplace(token, *checked);
  }

  std::optional<int32_t> TokenId(const JsonValue& json) {
    const int64_t id = json.Int();
    if (id < 0 || id >= static_cast<int64_t>(max_tokens_)) {
      json.Fault(absl::StrCat("is ", id, ", which is no token id below ", max_tokens_));
    }
    if (!fault_.ok()) return std::nullopt;
    return static_cast<int32_t>(id);
  }

  /// Gives an id to a token. False if another one has it.
  bool Place(const std::string& token, int32_t id) {
    const auto index = static_cast<size_t>(id);
    if (index >= read_.tokens.size()) {
      read_.tokens.resize(index + 1);
      read_.types.resize(index + 1, TokenType::kUnused);
    }
    if (read_.types[index] != TokenType::kUnused && read_.tokens[index] != token) return false;
    read_.tokens[index] = token;
    read_.types[index] = TokenType::kNormal;
    return true;
  }

  /// How text is split and tokens become text.
  void ReadSteps() {
    ReadNormalizer(json_["normalizer"], read_.normalizer);
    JsonPretokenizer splits = ReadPretokenizer(json_["pre_tokenizer"]);
    const JsonDecoder decoder = ReadDecoder(json_["decoder"]);
    if (!fault_.ok()) return;
    if (splits.byte_level != decoder.byte_level || (unigram() && splits.byte_level)) {
      return json_["decoder"].Unsupported(
          "and pre_tokenizer and model do not agree on whether tokens are spelled in bytes");
    }
    read_.pretokenizer = std::move(splits.types);
    read_.splits = std::move(splits.splits);
    read_.token_model = unigram()           ? TokenModel::kUnigram
                        : splits.byte_level ? TokenModel::kByteMerges
                                            : TokenModel::kCharacterMerges;
    read_.strips_leading_space = decoder.strips_leading_space;
    for (const Normalizer::Replace& step : decoder.replacements) replacements_.Add(step);
    for (size_t i = 0; i < read_.tokens.size(); ++i) {
      const std::string& token = read_.tokens[i];
      const std::optional<unsigned char> byte = ParseByteToken(token);
      if (decoder.byte_fallback && byte) {
        read_.types[i] = TokenType::kByte;
        read_.bytes.emplace_back(1, static_cast<char>(*byte));
      } else {
        read_.bytes.push_back(decoder.byte_level ? DecodeByteSpelling(token)
                                                 : replacements_.Apply(token));
      }
    }
  }

  void ReadAddedTokens() {
    const JsonValue list = json_["added_tokens"];
    for (size_t i = 0; i < list.size() && fault_.ok(); ++i) {
      const JsonValue json = list.At(i);
      AddedTokenEntry entry = ReadAddedToken(json);
      entry.id = json["id"].Int();
      const auto known = ids_.find(entry.content);
      if (known != ids_.end() && known->second != entry.id) {
        return json["id"].Fault(absl::StrCat("is ", entry.id, ", but the model's vocabulary has '",
                                             entry.content, "' as ", known->second));
      }
      if (!fault_.ok()) return;
      PlaceAddedToken(entry, max_tokens_, json["id"], read_);
      if (fault_.ok() && !entry.content.empty() && !entry.special) {
        read_.bytes[entry.id] = replacements_.Apply(entry.content);
      }
    }
    if (read_.tokens.empty()) json_["model"]["vocab"].Fault("is empty");
  }

  void ReadModel() {
    const JsonValue model = json_["model"];
    read_.byte_fallback = model["byte_fallback"].Bool(false);
    if (unigram()) {
      if (const JsonValue unknown = model["unk_id"]; !unknown.IsNull()) {
        const int64_t id = unknown.Int();
        if (id < 0 || id >= static_cast<int64_t>(model["vocab"].size())) {
          return unknown.Fault(absl::StrCat("is ", id, ", which is not in the vocabulary"));
        }
        SetUnknown(static_cast<int32_t>(id));
      }
      return;
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model[key].String("").empty()) model[key].Unsupported("is set, which Winnow can't do");
    }
    if (const JsonValue dropout = model["dropout"]; !dropout.IsNull() && dropout.Number() != 0) {
      dropout.Unsupported("is set, which would make tokens random");
    }
    read_.fuses_unknown = model["fuse_unk"].Bool(false);
    read_.ignores_merges = model["ignore_merges"].Bool(false);
    if (const JsonValue unknown = model["unk_token"]; !unknown.IsNull()) {
      const auto found = ids_.find(unknown.String());
      if (found == ids_.end()) return unknown.Fault("is not in the vocabulary");
      SetUnknown(found->second);
    }
    ReadMerges(model["merges"]);
  }

  void SetUnknown(int32_t token) {
    read_.unknown_token = token;
    read_.types[token] = TokenType::kUnknown;
  }

  void ReadMerges(const JsonValue& merges) {
    if (!merges.IsArray()) return merges.Fault("is no array");
    read_.merges.reserve(merges.size());
    for (size_t rank = 0; rank < merges.size() && fault_.ok(); ++rank) {
      const nlohmann::json& entry = merges.json()[rank];
      std::string left, right;
      if (entry.is_string()) {
        const auto& both = entry.get_ref<const std::string&>();
        const size_t space = both.find(' ');
        if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
          return merges.At(rank).Fault("is no two tokens with a space between them");
        }
        left = both.substr(0, space);
        right = both.substr(space + 1);
      } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
                 entry[1].is_string()) {
        left = entry[0].get<std::string>();
        right = entry[1].get<std::string>();
      } else {
        return merges.At(rank).Fault("is no pair of tokens");
      }
      const auto left_id = ids_.find(left), right_id = ids_.find(right),
                 merged = ids_.find(left + right);
      if (left_id == ids_.end() || right_id == ids_.end() || merged == ids_.end()) {
        return merges.At(rank).Fault("names a token that the vocabulary lacks");
      }
      read_.merges.push_back({left_id->second, right_id->second, merged->second});
    }
  }

  /// What stands in front of a single text.
  void ReadPrefix() { ReadPostProcessor(json_["post_processor"], /*depth=*/0); }

  void ReadPostProcessor(const JsonValue& json, int depth) {
    if (json.IsNull()) return;
    const std::string type = json["type"].String();
    if (type == "ByteLevel") return;  // says where tokens lie in a text
    if (type == "Sequence" && depth == 0) {
      const JsonValue steps = json["processors"];
      for (size_t i = 0; i < steps.size(); ++i) ReadPostProcessor(steps.At(i), depth + 1);
      return;
    }
    if (type != "TemplateProcessing") {
      return json.Unsupported(
          absl::StrCat("is of the type '", type, "', which Winnow does not know"));
    }
    const JsonValue single = json["single"];
    for (size_t i = 0; i < single.size() && fault_.ok(); ++i) {
      const JsonValue special = single.At(i)["SpecialToken"];
      if (special.IsNull()) break;  // the text; what stands behind it is left out
      const std::string name = special["id"].String();
      const JsonValue ids = json["special_tokens"][name.c_str()]["ids"];
      if (ids.size() == 0) return ids.Fault("is missing");
      for (size_t j = 0; j < ids.size() && fault_.ok(); ++j) {
        const JsonValue id = ids.At(j);
        if (id.Int() < 0 || id.Int() >= static_cast<int64_t>(read_.tokens.size())) {
          return id.Fault("is not in the vocabulary");
        }
        read_.prefix.push_back(static_cast<int32_t>(id.Int()));
      }
    }
  }

  const JsonValue json_;
  absl::Status& fault_;
  Vocabulary read_;
  TokenIds ids_;             ///< of the model's vocabulary
  Normalizer replacements_;  ///< what decoding does to spellings that are not of bytes
  size_t max_tokens_ = 0;
};

}  // namespace

absl::StatusOr<Vocabulary> ReadTokenizerJson(std::string_view json) {
  const absl::StatusOr<nlohmann::json> parsed = ParseJson(json, "tokenizer.json");
  if (!parsed.ok()) return parsed.status();
  absl::Status fault;
  return JsonVocabulary(JsonValue(*parsed, "tokenizer.json: ", fault), fault).Read();
}

}  // namespace winnow
