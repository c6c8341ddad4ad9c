#pragma once

#include <atomic>
#include <cstdint>

#include "engine/engine.h"
#include "server/grpc/slow_readers.h"
#include "server/observability/metrics_exporter.h"
#include "server/security/auth.h"
#include "server/session/delivery_thread.h"
#include "server/session/served_model.h"
#include "winnow/v1/generation.grpc.pb.h"
#include "winnow/v1/model.grpc.pb.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {

/// What the services share. All of it outlives them.
struct ServiceContext {
  const ServedModel& model;
  Engine& engine;
  MetricsExporter& metrics;
  const Authenticator& authenticator;
  SlowReaders slow_readers = {};
  std::atomic<uint64_t> last_request_id{0};
  std::atomic<int> open_calls{0};  ///< generation calls whose responses are not out yet
  DeliveryThread delivery{};       ///< writes what the engine has put into streams
};

/// Generation: each call is a reactor that lives from the call's start to its OnDone, owns the
/// stream that the engine writes to, and ends only after the engine has let go of that stream.
class GenerationServiceImpl final : public v1::GenerationService::CallbackService {
 public:
  explicit GenerationServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* call, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* call,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;

 private:
  ServiceContext& context_;
};

class TokenizerServiceImpl final : public v1::TokenizerService::CallbackService {
 public:
  explicit TokenizerServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  ServiceContext& context_;
};

class ModelServiceImpl final : public v1::ModelService::CallbackService {
 public:
  explicit ModelServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace winnow
