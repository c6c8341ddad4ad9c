#pragma once

namespace winnow {

inline constexpr char kVersion[] = WINNOW_VERSION;  ///< the project's version in CMakeLists.txt

}  // namespace winnow
