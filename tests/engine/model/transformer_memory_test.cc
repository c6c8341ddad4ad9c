// That a loaded model takes no memory while it computes.

#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "engine/model/transformer.h"
#include "gtest/gtest.h"
#include "kernels/step_batch_builder.h"
#include "tests/engine/eval/random_model.h"
#include "tests/kernels/allocation_count.h"

namespace winnow {
namespace {

constexpr int kContext = 640;
constexpr int kBlocks = kContext / RandomModel::kBlockTokens;

TEST(TransformerMemoryTest, StepsAllocateNothingOnceTheModelIsLoaded) {
  RandomModel model(kContext);
  std::mt19937 random(3);
  constexpr SelectionKind kKinds[] = {SelectionKind::kAll, SelectionKind::kLabels,
                                      SelectionKind::kWindow};
  std::vector<int32_t> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  for (int step = 0; step < 200; ++step) {
    // Now and then the largest step, of the longest context.
    const bool is_largest = step % 50 == 30;
    StepBatchBuilder rows;
    std::vector<TokenChoice> choices;
    int left = RandomModel::kStepTokens;
    while (left > 0) {
      const int count = is_largest || random() % 5 == 0 ? left : 1;
      const int first =
          is_largest ? kContext - count : static_cast<int>(random() % (kContext - count));
      const Selection selection{kKinds[random() % 3], 1 / static_cast<float>(1 + random() % 9), 0};
      rows.BeginSequence(blocks);
      for (int i = 0; i < count; ++i) {
        rows.AddRow(static_cast<int32_t>(random() % RandomModel::kVocab), first + i, selection,
                    /*wants_logits=*/i + 1 == count);
      }
      TokenChoice choice;
      choice.row = static_cast<int32_t>(choices.size());
      choice.temperature = random() % 2 == 0 ? 0 : 0.7f;
      choice.top_p = random() % 2 == 0 ? 1 : 0.9f;
      choices.push_back(choice);
      left -= count;
      if (!is_largest && random() % 20 == 0) break;
    }
    const StepBatch batch = rows.Build();
    std::vector<int32_t> tokens(choices.size());
    test::allocation_count = 0;
    const absl::Status status =
        model.transformer().ForwardAndChoose(batch, choices, tokens, {}, {});
    ASSERT_EQ(test::allocation_count, 0) << "step " << step << " of " << batch.rows() << " rows";
    ASSERT_TRUE(status.ok()) << status;
  }
}

}  // namespace
}  // namespace winnow
