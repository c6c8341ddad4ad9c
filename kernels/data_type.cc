#include "kernels/data_type.h"

namespace winnow {

const char* DataTypeName(DataType type) {
  switch (type) {
    case DataType::kF32:
      return "F32";
    case DataType::kF16:
      return "F16";
    case DataType::kBF16:
      return "BF16";
    case DataType::kQ4_0:
      return "Q4_0";
    case DataType::kQ4_1:
      return "Q4_1";
    case DataType::kQ5_0:
      return "Q5_0";
    case DataType::kQ5_1:
      return "Q5_1";
    case DataType::kQ8_0:
      return "Q8_0";
    case DataType::kQ4_K:
      return "Q4_K";
    case DataType::kQ5_K:
      return "Q5_K";
    case DataType::kQ6_K:
      return "Q6_K";
  }
  return "unknown";
}

int64_t BlockElements(DataType type) {
  switch (type) {
    case DataType::kF32:
    case DataType::kF16:
    case DataType::kBF16:
      return 1;
    case DataType::kQ4_0:
    case DataType::kQ4_1:
    case DataType::kQ5_0:
    case DataType::kQ5_1:
    case DataType::kQ8_0:
      return 32;
    case DataType::kQ4_K:
    case DataType::kQ5_K:
    case DataType::kQ6_K:
      return 256;
  }
  return 1;
}

int64_t BlockBytes(DataType type) {
  switch (type) {
    case DataType::kF32:
      return 4;
    case DataType::kF16:
      return 2;
    case DataType::kBF16:
      return 2;
    case DataType::kQ4_0:
      return 18;
    case DataType::kQ4_1:
      return 20;
    case DataType::kQ5_0:
      return 22;
    case DataType::kQ5_1:
      return 24;
    case DataType::kQ8_0:
      return 34;
    case DataType::kQ4_K:
      return 144;
    case DataType::kQ5_K:
      return 176;
    case DataType::kQ6_K:
      return 210;
  }
  return 4;
}

}  // namespace winnow
