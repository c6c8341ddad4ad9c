#include "engine/text/tokenizer_json_steps.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr int kMaxDepth = 8;       ///< of sequences in sequences
constexpr int kMaxSteps = 64;      ///< one more is one call deeper for each word
constexpr size_t kMaxGrowth = 16;  ///< of a text by all its replacements
constexpr size_t kMaxPrependedBytes = 64;
constexpr size_t kMaxMarkBytes = 4;  ///< of one character

/// Adds up by how much replacements make a text longer; a few small ones could fill any memory.
class Growth {
 public:
  /// Each `pattern_bytes` of a text may become `content_bytes`. Notes a fault where that is too
  /// much.
  void Add(const JsonValue& step, size_t content_bytes, size_t pattern_bytes) {
    growth_ *= std::max<size_t>(1, (content_bytes + pattern_bytes - 1) / pattern_bytes);
    if (growth_ <= kMaxGrowth) return;
    growth_ = kMaxGrowth + 1;
    step.Fault(absl::StrCat("would make texts more than ", kMaxGrowth, " times as long"));
  }

 private:
  size_t growth_ = 1;
};

void NoteUnknown(const JsonValue& step, const std::string& type) {
  step.Unsupported(absl::StrCat("is of the type '", type, "', which Winnow does not know"));
}

/// The steps of a file's key: those of a sequence, of sequences in it, or the one step that there
/// is.
class Steps {
 public:
  /// `list` is the key that a sequence has its steps at.
  explicit Steps(const char* list) : list_(list) {}

  /// Calls `read(step, type)` with each step.
  template <typename Read>
  void ForEach(const JsonValue& json, Read read, int depth = 0) {
    if (json.IsNull()) return;
    const std::string type = json["type"].String();
    if (type != "Sequence") {
      if (++count_ > kMaxSteps) return json.Fault(absl::StrCat("is step ", kMaxSteps + 1));
      return read(json, type);
    }
    if (depth == kMaxDepth) return json.Fault("is a sequence in too many others");
    const JsonValue steps = json[list_];
    if (!steps.IsArray()) return steps.Fault("is no array");
    for (size_t i = 0; i < steps.size() && count_ <= kMaxSteps; ++i) {
      ForEach(steps.At(i), read, depth + 1);
    }
  }

 private:
  const char* const list_;
  int count_ = 0;
};

std::shared_ptr<const Regex> ReadRegex(const JsonValue& json) {
  absl::StatusOr<std::shared_ptr<const Regex>> regex = Regex::Compile(json.String());
  if (regex.ok()) return *std::move(regex);
  json.Fault(absl::StrCat("is not understood: ", regex.status().message()));
  return nullptr;
}

/// A literal text of at least one byte.
std::string ReadLiteral(const JsonValue& json) {
  std::string literal = json.String();
  if (literal.empty()) json.Fault("is empty");
  return literal;
}

/// A replacement of a literal text.
Normalizer::Replace ReadReplace(const JsonValue& step, Growth& growth) {
  Normalizer::Replace replace{ReadLiteral(step["pattern"]["String"]), step["content"].String()};
  growth.Add(step, replace.content.size(), std::max<size_t>(1, replace.pattern.size()));
  return replace;
}

/// A replacement of what matches an expression, perhaps nothing before every byte.
void ReadReplaceMatches(const JsonValue& step, Growth& growth, Normalizer& normalizer) {
  const std::string content = step["content"].String();
  growth.Add(step, content.size() + 1, 1);
  if (auto regex = ReadRegex(step["pattern"]["Regex"])) {
    normalizer.Add(Normalizer::ReplaceMatches{std::move(regex), content});
  }
}

/// One map bounds itself by how much it makes a text longer. Models may have an empty one.
void ReadCharacterMap(const JsonValue& json, bool& has_one, Normalizer& normalizer) {
  std::string bytes;
  if (json.IsNull() || json.String().empty()) return;
  if (has_one) return json.Fault("is a second map of characters; at most one is possible");
  has_one = true;
  if (!absl::Base64Unescape(json.String(), &bytes)) return json.Fault("is no base64");
  absl::StatusOr<std::shared_ptr<const CharacterMap>> map = CharacterMap::Parse(bytes);
  if (!map.ok()) return json.Fault(std::string(map.status().message()));
  normalizer.Add(Normalizer::MapCharacters{*std::move(map), /*graphemes=*/true});
}

std::optional<UnicodeForm> FindForm(std::string_view type) {
  if (type == "NFC") return UnicodeForm::kNfc;
  if (type == "NFD") return UnicodeForm::kNfd;
  if (type == "NFKC") return UnicodeForm::kNfkc;
  if (type == "NFKD") return UnicodeForm::kNfkd;
  return std::nullopt;
}

SplitBehavior ReadBehavior(const JsonValue& json) {
  const std::string name = json.String("Isolated");
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  if (name != "Isolated") json.Fault(absl::StrCat("is the unknown behavior '", name, "'"));
  return SplitBehavior::kIsolated;
}

Pretokenizer::Step ReadSplit(const JsonValue& step) {
  Pretokenizer::Split split;
  split.behavior = ReadBehavior(step["behavior"]);
  split.invert = step["invert"].Bool(false);
  const JsonValue expression = step["pattern"]["Regex"];
  if (expression.IsNull()) {
    split.pattern = ReadLiteral(step["pattern"]["String"]);
    return split;
  }
  // Of known patterns, whose matches are all of a text, the matches are kept.
  const bool keeps_matches = split.behavior == SplitBehavior::kIsolated ||
                             (split.behavior == SplitBehavior::kRemoved && split.invert);
  if (const auto words = FindWordPattern(expression.String()); words && keeps_matches) {
    return Pretokenizer::Words{*words};
  }
  split.pattern = ReadRegex(expression);
  return split;
}

Pretokenizer::MarkSpaces ReadMetaspace(const JsonValue& step) {
  using Prepend = Pretokenizer::MarkSpaces::Prepend;
  Pretokenizer::MarkSpaces marks{ReadLiteral(step["replacement"]), Prepend::kAlways};
  if (marks.mark.size() > kMaxMarkBytes) step["replacement"].Fault("is no single character");
  marks.splits = step["split"].Bool(true);
  const std::string scheme = step["prepend_scheme"].String("always");
  if (scheme == "never" || !step["add_prefix_space"].Bool(true)) {
    marks.prepend = Prepend::kNever;
  } else if (scheme == "first") {
    marks.prepend = Prepend::kFirst;
  } else if (scheme != "always") {
    step["prepend_scheme"].Fault(absl::StrCat("is the unknown scheme '", scheme, "'"));
  }
  return marks;
}

void ReadSplitStep(const JsonValue& step, const std::string& type, JsonPretokenizer& read) {
  using Kind = Pretokenizer::CharacterKind;
  if (read.byte_level) {
    return step.Unsupported("stands behind ByteLevel, where Winnow wants nothing");
  }
  absl::StrAppend(&read.types, read.types.empty() ? "" : ", ", type);
  Pretokenizer& splits = read.splits;
  if (type == "ByteLevel") {
    read.byte_level = true;
    if (step["add_prefix_space"].Bool(true)) splits.Add(Pretokenizer::PrefixSpace{});
    if (step["use_regex"].Bool(true)) splits.Add(Pretokenizer::Words{WordPattern::kGpt2});
  } else if (type == "Split") {
    splits.Add(ReadSplit(step));
  } else if (type == "Digits") {
    const bool single = step["individual_digits"].Bool(false);
    splits.Add(Pretokenizer::Split{Kind::kNumber,
                                   single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Metaspace") {
    splits.Add(ReadMetaspace(step));
  } else if (type == "Whitespace") {
    splits.Add(Pretokenizer::Split{Pretokenizer::WordsAndSymbols{}, SplitBehavior::kRemoved,
                                   /*invert=*/true});
  } else if (type == "WhitespaceSplit") {
    splits.Add(Pretokenizer::Split{Kind::kWhitespace, SplitBehavior::kRemoved});
  } else if (type == "Punctuation") {
    splits.Add(Pretokenizer::Split{Kind::kPunctuation, ReadBehavior(step["behavior"])});
  } else {
    NoteUnknown(step, type);
  }
}

}  // namespace

void ReadNormalizer(const JsonValue& json, Normalizer& normalizer) {
  Growth growth;
  bool has_map = false;
  Steps("normalizers").ForEach(json, [&](const JsonValue& step, const std::string& type) {
    if (const std::optional<UnicodeForm> form = FindForm(type)) {
      normalizer.Add(*form);
    } else if (type == "Lowercase") {
      normalizer.Add(Normalizer::Lowercase{});
    } else if (type == "Replace" && step["pattern"]["Regex"].IsNull()) {
      normalizer.Add(ReadReplace(step, growth));
    } else if (type == "Replace") {
      ReadReplaceMatches(step, growth, normalizer);
    } else if (type == "Prepend") {
      const Normalizer::Prepend prepend{step["prepend"].String()};
      if (prepend.content.size() > kMaxPrependedBytes) step["prepend"].Fault("is too long");
      normalizer.Add(prepend);
    } else if (type == "Strip") {
      normalizer.Add(Normalizer::Strip{step["strip_left"].Bool(), step["strip_right"].Bool()});
    } else if (type == "StripAccents") {
      normalizer.Add(Normalizer::StripAccents{});
    } else if (type == "Precompiled") {
      ReadCharacterMap(step["precompiled_charsmap"], has_map, normalizer);
    } else {
      NoteUnknown(step, type);
    }
  });
}

JsonPretokenizer ReadPretokenizer(const JsonValue& json) {
  JsonPretokenizer read;
  Steps("pretokenizers").ForEach(json, [&](const JsonValue& step, const std::string& type) {
    ReadSplitStep(step, type, read);
  });
  return read;
}

JsonDecoder ReadDecoder(const JsonValue& json) {
  JsonDecoder read;
  if (json.IsNull()) json.Unsupported("is missing: Winnow would not know how tokens become text");
  Growth growth;
  bool fused = false;  // steps see a whole text, no longer its tokens
  Steps("decoders").ForEach(json, [&](const JsonValue& step, const std::string& type) {
    if (type == "ByteLevel" && !fused) {
      read.byte_level = fused = true;
    } else if (type == "Metaspace" && !fused) {
      const Pretokenizer::MarkSpaces marks = ReadMetaspace(step);
      read.replacements.push_back({marks.mark, " "});
      read.strips_leading_space = marks.prepend != Pretokenizer::MarkSpaces::Prepend::kNever;
    } else if (type == "Replace" && !fused && step["pattern"]["Regex"].IsNull()) {
      read.replacements.push_back(ReadReplace(step, growth));
    } else if (type == "ByteFallback" && !fused) {
      read.byte_fallback = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip" && fused && !read.byte_level && step["content"].String() == " " &&
               step["start"].Int() <= 1 && step["stop"].Int() == 0) {
      read.strips_leading_space = step["start"].Int() == 1;
    } else {
      step.Unsupported(absl::StrCat("(", type, ") changes text as Winnow does not"));
    }
  });
  return read;
}

}  // namespace winnow
