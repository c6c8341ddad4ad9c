#include "engine/text/template_engine.h"

#include <utility>

#include "absl/status/status.h"
#include "engine/base/check.h"

namespace {

// What template_engine/src/lib.rs exports.

/// To be freed by winnow_template_free_text.
struct OwnedText {
  char* data;
  size_t size;
};

struct LocalTime {
  int32_t year, month, day, hour, minute, second;
  int32_t weekday;   ///< 0 is Sunday
  int32_t year_day;  ///< from 1
};

extern "C" {
void* winnow_template_compile(const char* source, size_t size, uint64_t max_steps,
                              OwnedText* error);
int32_t winnow_template_render(const void* compiled, const char* context, size_t size,
                               size_t max_bytes, const LocalTime* now, OwnedText* result);
void winnow_template_free(void* compiled);
void winnow_template_free_text(OwnedText text);
}

constexpr int32_t kRendered = 0;
constexpr int32_t kRefused = 1;

std::string Take(OwnedText text) {
  std::string taken(text.data, text.size);
  winnow_template_free_text(text);
  return taken;
}

LocalTime ToLocalTime(absl::Time time) {
  const absl::TimeZone zone = absl::LocalTimeZone();
  const absl::CivilSecond civil = absl::ToCivilSecond(time, zone);
  // Abseil's weeks begin on Monday.
  const int weekday = (static_cast<int>(absl::GetWeekday(civil)) + 1) % 7;
  return {.year = static_cast<int32_t>(civil.year()),
          .month = civil.month(),
          .day = civil.day(),
          .hour = civil.hour(),
          .minute = civil.minute(),
          .second = civil.second(),
          .weekday = weekday,
          .year_day = absl::GetYearDay(absl::CivilDay(civil))};
}

}  // namespace

namespace winnow {

absl::StatusOr<TemplateEngine> TemplateEngine::Compile(std::string_view jinja) {
  OwnedText error;
  void* compiled = winnow_template_compile(jinja.data(), jinja.size(), kMaxSteps, &error);
  if (compiled == nullptr) return absl::InvalidArgumentError(Take(error));
  return TemplateEngine(static_cast<Compiled*>(compiled));
}

TemplateEngine::TemplateEngine(TemplateEngine&& other) noexcept
    : compiled_(std::exchange(other.compiled_, nullptr)) {}

TemplateEngine& TemplateEngine::operator=(TemplateEngine&& other) noexcept {
  std::swap(compiled_, other.compiled_);
  return *this;
}

TemplateEngine::~TemplateEngine() {
  if (compiled_ != nullptr) winnow_template_free(compiled_);
}

absl::StatusOr<std::string> TemplateEngine::Render(const std::string& context, size_t max_bytes,
                                                   absl::Time now) const {
  WINNOW_CHECK(compiled_ != nullptr);
  const LocalTime local = ToLocalTime(now);
  OwnedText result;
  const int32_t code =
      winnow_template_render(compiled_, context.data(), context.size(), max_bytes, &local, &result);
  std::string text = Take(result);
  if (code == kRendered) return text;
  if (code == kRefused) return absl::FailedPreconditionError(text);
  return absl::InvalidArgumentError(text);
}

}  // namespace winnow
