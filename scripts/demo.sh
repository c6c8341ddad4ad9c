#!/usr/bin/env bash
# Serves a model on free ports, streams one completion to the terminal, stops the server. Run by
# `make demo` once build/release/winnow is there. MODEL and PROMPT may be set.
set -euo pipefail
cd "$(dirname "$0")/.."

winnow=build/release/winnow
prompt=${PROMPT:-Photosynthesis is the process by which}
model=$(scripts/fetch_model.sh)
log=build/demo.log
# The demo model's label file fits no other model.
labels=()
if [[ -z "${MODEL:-}" ]]; then labels=(--label-file models/smollm2-135m-instruct.labels.json); fi

# Port 0: the server picks free ports and says which in its log.
"$winnow" serve --model "$model" "${labels[@]}" --address 127.0.0.1:0 --metrics-address 127.0.0.1:0 \
  2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT

fail() {
  echo "demo: $*; the server's log is $log:" >&2
  tail -n 5 "$log" >&2
  exit 1
}

# The value of a field of the log line about listening.
listening() {
  sed -n "/ event=listening /s/.* $1=\([^ ]*\).*/\1/p" "$log" | head -n 1
}

address=""
for ((attempt = 0; attempt < 600; ++attempt)); do
  if [[ -z "$address" ]]; then address=$(listening address); fi
  if [[ -n "$address" ]] && "$winnow" health --address "$address" >/dev/null 2>&1; then break; fi
  kill -0 "$server" 2>/dev/null || fail "the server ended"
  sleep 0.1
done
[[ $attempt -lt 600 ]] || fail "the server was not healthy within 60 s"

echo "demo: $(basename "$model") is served on $address"
echo "demo: metrics on http://$(listening metrics_address)/metrics"
echo
printf '%s' "$prompt"
"$winnow" generate --address "$address" --prompt "$prompt" --max-tokens 64 --temperature 0
echo
question="Summarize the text above in two sentences."
echo "demo: docs/label-cache.md, about a thousand tokens, and then: $question"
echo
"$winnow" generate --address "$address" --chat --prompt-file docs/label-cache.md \
  --prompt $'\n\n'"$question" --max-tokens 80 --temperature 0
echo

kill -TERM "$server"
trap - EXIT
wait "$server" || fail "the server ended with status $?"
echo "demo: the server has drained and stopped"
