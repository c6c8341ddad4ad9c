#pragma once

#include <cstdint>
#include <string>

#include "engine/attention/policy.h"
#include "engine/attention/sequence_attention.h"
#include "engine/request/engine_options.h"
#include "server/commands/flags.h"
#include "server/grpc/grpc_server.h"
#include "server/security/tls.h"
#include "server/session/served_model.h"

namespace winnow {

/// What `winnow serve` is told.
struct ServeFlags {
  std::string model;
  std::string model_name;
  std::string address = "127.0.0.1:50051";
  GrpcServerOptions server;  ///< without address and credentials
  TlsFiles tls;
  double min_ping_seconds = 5;
  double max_connection_age_seconds = 0;
  double slow_reader_seconds = 60;
  RequestLimits limits;
  std::string generation_config = "auto";
  std::string auth_tokens;
  bool auth_over_plaintext = false;
  std::string metrics_address = "127.0.0.1:9464";
  std::string device = "cpu";
  int threads = 0;
  int max_context = 0;
  int kv_tokens = 0;  ///< 0: auto
  double memory_fraction = 0.9;
  int64_t kv_host_bytes = 0;
  std::string kv_host_file;
  int max_step_tokens = EngineOptions().max_step_tokens;
  int max_running = EngineOptions().max_running_sequences;
  int max_waiting = EngineOptions().max_waiting_requests;
  int max_waiting_tokens = EngineOptions().max_waiting_tokens;
  int min_priority = ServedModel().min_priority;
  std::string policy;
  double sparsity = AttentionPolicy().sparsity;
  int budget_tokens = 0;
  double min_sparsity = AttentionLimits().min_sparsity;
  double max_sparsity = AttentionLimits().max_sparsity;
  std::string label_file;
  std::string budgets = "by-head";
  std::string tail = "by-head";
  /// Shorter contexts would save microseconds a layer (docs/performance.md) with few tokens to
  /// spend.
  SelectionOptions selection = {.min_context = 512};
  RecallOptions recall;
  double lame_duck_seconds = 0;
  double drain_seconds = 30;
  double step_timeout_seconds = 300;
  bool inference_extension_metrics = false;
  std::string log_level = "info";
  std::string log_format = "logfmt";
};

/// Declares its flags; --help documents them.
void DeclareServeFlags(FlagSet& set, ServeFlags& flags);

}  // namespace winnow
