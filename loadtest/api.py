"""The server's API, from its proto files; no generated code is kept."""

import pathlib
import sys

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "proto"))
generation, generation_services = grpc.protos_and_services("winnow/v1/generation.proto")
model, model_services = grpc.protos_and_services("winnow/v1/model.proto")
tokenizer, tokenizer_services = grpc.protos_and_services("winnow/v1/tokenizer.proto")


def context_tokens(address):
    """The longest sequence that the server takes, prompt and continuation."""
    with grpc.insecure_channel(address) as channel:
        stub = model_services.ModelServiceStub(channel)
        return stub.GetModel(model.GetModelRequest(), timeout=10).context_tokens


def tokenize(address, text):
    """Token ids of a text."""
    with grpc.insecure_channel(address) as channel:
        stub = tokenizer_services.TokenizerServiceStub(channel)
        return list(stub.Tokenize(tokenizer.TokenizeRequest(text=text), timeout=60).token_ids)
