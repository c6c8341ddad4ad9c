#include "engine/model/folder_rope.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_limits.h"
#include "engine/model/family.h"
#include "engine/model/rope_scaling.h"

namespace winnow {
namespace {

constexpr double kMinBase = 2;
constexpr double kMinScale = 1e-3;

RopeConfig ConfigOf(RopePairing pairing, int dim, RopeTable table) {
  return {pairing,         dim,        std::move(table.frequencies),
          table.magnitude, table.base, std::move(table.scaling)};
}

/// Reads one rope: its base and dimensions from `base` or `scaling`, which are the same object
/// where both are in rope_parameters.
class RopeReader {
 public:
  RopeReader(JsonFields& whole, JsonFields scaling, int context, ModelConfig& config)
      : whole_(whole), scaling_(std::move(scaling)), context_(context), config_(config) {}

  RopeConfig Read(double base, RopePairing pairing) {
    RopeConfig rope;
    rope.pairing = pairing;
    const double part = PartialFactor();
    rope.dim = static_cast<int>(config_.head_dim * part);
    if (rope.dim < 2 || rope.dim % 2 != 0) {
      whole_.Invalid(absl::StrCat("partial_rotary_factor ", part, " rotates ", rope.dim, " of ",
                                  config_.head_dim,
                                  " dimensions; it must be an even number of "
                                  "them, and not none"));
      return rope;
    }
    RopeTable table = UnscaledRope(base, rope.dim);
    Scale(table);
    return ConfigOf(pairing, rope.dim, std::move(table));
  }

 private:
  double PartialFactor() {
    JsonFields& at = scaling_.Has("partial_rotary_factor") ? scaling_ : whole_;
    return at.Float("partial_rotary_factor", 0, 1, 1);
  }

  void Scale(RopeTable& table) {
    // Older files call it "type", and longrope "su".
    const char* key = scaling_.Has("rope_type") ? "rope_type" : "type";
    const std::string type = scaling_.String(key, "default");
    if (type == "linear") {
      const double factor = Factor();
      ScaleLinear(factor, table);
      GrowContext(config_.max_context * factor);
    } else if (type == "llama3") {
      ScaleByLlama3(table);
    } else if (type == "yarn") {
      ScaleByYarn(table);
    } else if (type == "longrope" || type == "su") {
      ScaleByLongrope(table);
    } else if (type != "default") {
      whole_.Unimplemented(absl::StrCat("RoPE scaling of type \"", absl::CHexEscape(type),
                                        "\" is not supported; supported are linear, llama3, yarn "
                                        "and longrope"));
    }
  }

  double Factor() { return scaling_.Float("factor", 1, kMaxRopeFactor); }

  double OriginalContext() {
    constexpr char kKey[] = "original_max_position_embeddings";
    JsonFields& at = scaling_.Has(kKey) ? scaling_ : whole_;
    return at.Int(kKey, 2, kMaxContext, std::max(config_.max_context, 2));
  }

  void ScaleByLlama3(RopeTable& table) {
    Llama3Scaling scaling;
    scaling.factor = Factor();
    scaling.low_freq_factor = scaling_.Float("low_freq_factor", kMinScale, kMaxRopeFactor);
    scaling.high_freq_factor = scaling_.Float("high_freq_factor", kMinScale, kMaxRopeFactor);
    scaling.original_context = OriginalContext();
    if (scaling.low_freq_factor >= scaling.high_freq_factor) {
      whole_.Invalid(absl::StrCat("low_freq_factor ", scaling.low_freq_factor,
                                  " is not below high_freq_factor ", scaling.high_freq_factor));
      return;
    }
    ScaleLlama3(scaling, table);
  }

  void ScaleByYarn(RopeTable& table) {
    YarnScaling scaling;
    scaling.factor = Factor();
    scaling.original_context = OriginalContext();
    scaling.beta_fast = scaling_.Float("beta_fast", kMinScale, kMaxRopeFactor, scaling.beta_fast);
    scaling.beta_slow = scaling_.Float("beta_slow", kMinScale, kMaxRopeFactor, scaling.beta_slow);
    scaling.truncate = scaling_.Bool("truncate", true);
    scaling.magnitude = scaling_.Float("attention_factor", kMinScale, kMaxRopeFactor, 0);
    for (const char* key : {"mscale", "mscale_all_dim"}) {
      if (scaling_.Has(key)) {
        whole_.Unimplemented(absl::StrCat("RoPE scaling with ", key, " is not supported"));
      }
    }
    if (!whole_.status().ok()) return;
    ScaleYarn(scaling, table);
    GrowContext(scaling.original_context * scaling.factor);
  }

  void ScaleByLongrope(RopeTable& table) {
    const size_t pairs = table.frequencies.size();
    LongropeScaling scaling;
    scaling.short_factors = scaling_.Floats("short_factor", pairs, kMinScale, kMaxRopeFactor);
    scaling.long_factors = scaling_.Floats("long_factor", pairs, kMinScale, kMaxRopeFactor);
    scaling.original_context = OriginalContext();
    scaling.trained_context = config_.max_context;
    scaling.served_context =
        context_ > 0 ? std::min(context_, config_.max_context) : config_.max_context;
    scaling.magnitude = scaling_.Float("attention_factor", kMinScale, kMaxRopeFactor, 0);
    for (const char* key : {"short_mscale", "long_mscale"}) {
      if (scaling_.Has(key)) {
        whole_.Unimplemented(absl::StrCat("RoPE scaling with ", key, " is not supported"));
      }
    }
    if (whole_.status().ok()) ScaleLongrope(scaling, table);
  }

  void GrowContext(double context) {
    // Gemma 3's files state the longer context already.
    if (config_.architecture != "gemma3" && context > config_.max_context) {
      config_.max_context = static_cast<int>(std::min<double>(context, kMaxContext));
    }
  }

  JsonFields& whole_;
  JsonFields scaling_;
  int context_;
  ModelConfig& config_;
};

}  // namespace

void ReadFolderRope(JsonFields& fields, int context, ModelConfig& config) {
  const RopePairing pairing = FindFamily(config.architecture)->rope_pairing;
  const bool local = config.architecture == "gemma3";
  const double default_base = local ? 1e6 : 1e4;
  const double default_local_base = 1e4;
  if (fields.Has("rope_parameters")) {
    JsonFields parameters = fields.Object("rope_parameters");
    const bool by_kind = parameters.Has("full_attention");
    JsonFields full = by_kind ? parameters.Object("full_attention") : parameters;
    const double base = full.Float("rope_theta", kMinBase, kMaxRopeBase, default_base);
    config.ropes.push_back(RopeReader(fields, full, context, config).Read(base, pairing));
    if (!local) return;
    JsonFields sliding = parameters.Object("sliding_attention");
    const double local_base =
        sliding.Float("rope_theta", kMinBase, kMaxRopeBase, default_local_base);
    config.ropes.push_back(RopeReader(fields, sliding, context, config).Read(local_base, pairing));
    return;
  }
  const double base = fields.Float("rope_theta", kMinBase, kMaxRopeBase, default_base);
  config.ropes.push_back(
      RopeReader(fields, fields.Object("rope_scaling"), context, config).Read(base, pairing));
  if (!local) return;
  // Scaling is of the layers without windows.
  const double local_base =
      fields.Float("rope_local_base_freq", kMinBase, kMaxRopeBase, default_local_base);
  const int dim = config.ropes[0].dim;
  config.ropes.push_back(ConfigOf(pairing, dim, UnscaledRope(local_base, dim)));
}

}  // namespace winnow
