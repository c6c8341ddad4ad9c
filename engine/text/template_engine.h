#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace winnow {

/// A Jinja template, run as a program by the library in template_engine/ with the settings of
/// Hugging Face's transformers: `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`,
/// `strftime_now`, `tojson` without escapes for HTML, methods and results as Python's.
///
/// Texts keep their authors: what the context has between kGivenBegin and kGivenEnd stands between
/// those in the rendering too, character by character, whatever the template does with it in
/// between. Its own logic does not see the marks.
///
/// Immutable, and safe to use from several threads.
class TemplateEngine {
 public:
  /// U+FDD0 and U+FDD1, noncharacters. REQUIRES of whoever fills a context: no text holds them.
  static constexpr char kGivenBegin[] = "\xEF\xB7\x90";
  static constexpr char kGivenEnd[] = "\xEF\xB7\x91";

  /// Instructions that a rendering may take, some hundred a message with most templates.
  static constexpr uint64_t kMaxSteps = 2'000'000;
  /// Deeper JSON can't be rendered.
  static constexpr int kMaxDepth = 64;

  /// INVALID_ARGUMENT says what is wrong with the template, and in which line.
  static absl::StatusOr<TemplateEngine> Compile(std::string_view jinja);

  TemplateEngine(TemplateEngine&& other) noexcept;
  TemplateEngine& operator=(TemplateEngine&& other) noexcept;
  ~TemplateEngine();

  /// Renders with the variables in `context`, a JSON object, at the time `now` (told to templates
  /// that ask for the date, in local time). FAILED_PRECONDITION with the words of the template that
  /// refuses (`raise_exception`); INVALID_ARGUMENT says why it fails: an operation that Python has
  /// no result for, or more than kMaxSteps, or more text than `max_bytes`, counted whenever an
  /// operation reads or makes some.
  absl::StatusOr<std::string> Render(const std::string& context, size_t max_bytes,
                                     absl::Time now) const;

 private:
  struct Compiled;
  explicit TemplateEngine(Compiled* compiled) : compiled_(compiled) {}

  Compiled* compiled_;
};

}  // namespace winnow
