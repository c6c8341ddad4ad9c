#!/usr/bin/env python3
"""Writes the Grafana dashboards beside this file: service.json, engine.json, sparsity.json.

    dashboards.py            write them
    dashboards.py --check    fail when they are not what this file describes

Every panel has a title, a unit (Grafana's ids), a description and queries as (legend, PromQL). In a
query, {S} stands for the label selectors of the dashboard's variables, and [R] for its rate interval.
"""

import json
import pathlib
import sys

SELECTOR = 'job=~"$job", instance=~"$instance"'
COLUMNS = 24
ROW_HEIGHT = 1
STAT_SIZE = (4, 4)
GRAPH_SIZE = (12, 8)


def rate(metric, labels="", by=""):
    """PromQL: the sum of a counter's rates, `by` labels; `labels` are further selectors."""
    selectors = "{S}" + (", " + labels if labels else "")
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selectors}}}[R]))"


def kind(name):
    return f'kind="{name}"'


def quantile(share, histogram, labels="", by=""):
    """PromQL: a quantile of a histogram over the rate interval, `by` labels."""
    buckets = rate(f"{histogram}_bucket", labels, f"le, {by}" if by else "le")
    return f"histogram_quantile({share}, {buckets})"


def quantiles(histogram, *shares):
    return [(f"p{share * 100:g}", quantile(share, histogram)) for share in shares]


def stat(title, unit, description, query):
    return {"type": "stat", "title": title, "unit": unit, "description": description,
            "queries": [("", query)]}


def graph(title, unit, description, *queries, stack=False, maximum=None):
    return {"type": "timeseries", "title": title, "unit": unit, "description": description,
            "queries": queries, "stack": stack, "max": maximum}


def heatmap(title, unit, description, histogram):
    return {"type": "heatmap", "title": title, "unit": unit, "description": description,
            "queries": [("{{le}}", rate(f"{histogram}_bucket", by="le"))]}


FAILED = rate("winnow_rpcs_total", 'code!="OK"')
CALLS = rate("winnow_rpcs_total")
FORWARD = rate("winnow_step_duration_seconds_sum", 'phase="forward"')
STEP_TIME = rate("winnow_step_duration_seconds_sum")
STEPS = 'winnow_step_duration_seconds_count{{S}, phase="forward"}'

SERVICE = {
    "Now": [
        stat("Calls", "reqps", "Calls of all methods that ended, per second.", CALLS),
        stat("Failed", "percentunit", "Share of calls that ended with another code than OK, clients' mistakes included.",
             f"({FAILED} or vector(0)) / {CALLS}"),
        stat("TTFT p95", "s", "95th percentile of the time from submission to the first generated token.",
             quantile(0.95, "winnow_time_to_first_token_seconds")),
        stat("ITL p95", "s", "95th percentile of the time between two generated tokens of a continuation.",
             quantile(0.95, "winnow_inter_token_latency_seconds")),
        stat("Running", "short", "Requests that have been started, preempted ones among them.", "sum(winnow_requests_running{{S}})"),
        stat("Waiting", "short", "Requests in the admission queue; --max-waiting bounds it per replica.",
             "sum(winnow_requests_waiting{{S}})"),
    ],
    "Rate and errors": [
        graph("Calls by method", "reqps", "Calls that ended, per second, by gRPC method.",
              ("{{method}}", rate("winnow_rpcs_total", by="method")), stack=True),
        graph("Failed calls by code", "reqps",
              "Calls that ended with another code than OK, per second. INVALID_ARGUMENT and CANCELLED are the "
              "client's doing.",
              ("{{code}}", rate("winnow_rpcs_total", 'code!="OK"', "code")), stack=True),
        graph("Shed requests", "reqps",
              "Requests per second that were refused or dropped for lack of capacity: the queue was full by requests or "
              "prompt tokens, the deadline was out of reach on arrival or later (overdue), or a full queue gave the place "
              "to another (displaced).",
              ("{{reason}}", rate("winnow_requests_shed_total", by="reason")), stack=True),
        graph("Refused requests", "reqps",
              "Valid requests that the engine refused, per second: RESOURCE_EXHAUSTED under overload, UNAVAILABLE when "
              "it drains.",
              ("{{code}}", rate("winnow_requests_rejected_total", by="code"))),
        graph("Refused connections", "cps", "Connections closed at once for lack of file descriptors, per second.",
              ("refused", rate("winnow_connections_refused_total"))),
        graph("Continuations by end", "cps",
              "Continuations that ended, per second: stop and length are complete, cancelled ones are not.",
              ("{{finish_reason}}", rate("winnow_continuations_total", by="finish_reason")), stack=True),
    ],
    "Latency": [
        graph("Time to first token", "s", "Quantiles of the time from submission to the first generated token.",
              *quantiles("winnow_time_to_first_token_seconds", 0.5, 0.95, 0.99)),
        graph("Inter-token latency", "s", "Quantiles of the time between two generated tokens of a continuation.",
              *quantiles("winnow_inter_token_latency_seconds", 0.5, 0.95, 0.99)),
        heatmap("Time to first token, distribution", "s", "Requests per second by time to first token.",
                "winnow_time_to_first_token_seconds"),
        graph("Request duration", "s", "Quantiles of the time from submission to the end, however the request ended.",
              *quantiles("winnow_request_duration_seconds", 0.5, 0.95, 0.99)),
    ],
    "Queue": [
        graph("Requests", "short", "Requests that have been started, and requests that wait for their first step.",
              ("running {{instance}}", "winnow_requests_running{{S}}"),
              ("waiting {{instance}}", "winnow_requests_waiting{{S}}")),
        graph("Time in the queue", "s",
              "Quantiles of the time from submission to the first step that computed the request.",
              *quantiles("winnow_request_queue_seconds", 0.5, 0.95, 0.99)),
        graph("Estimated wait", "s", "Time until the last of those that wait has its turn if nobody else comes, by measured step times.",
              ("{{instance}}", "winnow_estimated_wait_seconds{{S}}")),
        graph("Waiting prompt tokens", "short", "Prompt tokens in the admission queue; --max-waiting-tokens bounds them.",
              ("{{instance}}", "winnow_waiting_prompt_tokens{{S}}")),
        graph("Tokens of ended requests", "cps",
              "Tokens per second of requests that ended, by kind; cached ones are counted as prompt too.",
              ("{{kind}}", rate("winnow_tokens_total", by="kind"))),
    ],
}

ENGINE = {
    "Now": [
        stat("Tokens/s", "cps", "Generated tokens per second, over all replicas.",
             rate("winnow_computed_tokens_total", kind("decode"))),
        stat("Prompt tokens/s", "cps", "Prompt tokens computed per second, over all replicas.",
             rate("winnow_computed_tokens_total", kind("prefill"))),
        stat("Steps/s", "ops", "Engine steps per second, over all replicas.",
             f"sum(rate({STEPS}[R]))"),
        stat("KV pool in use", "percentunit", "Share of the KV blocks that sequences hold.",
             'sum(winnow_kv_blocks{{S}, state="used"}) / sum(winnow_kv_blocks{{S}})'),
        stat("Preemptions", "ops", "Sequences per second that lost their KV blocks and were recomputed.",
             rate("winnow_preemptions_total")),
        stat("Replicas", "short", "Servers that are scraped.", "count(winnow_build_info{{S}})"),
    ],
    "Tokens and batches": [
        graph("Computed tokens", "cps", "Tokens that steps computed, per second, recomputation included.",
              ("{{kind}} {{instance}}", rate("winnow_computed_tokens_total", by="kind, instance"))),
        graph("Tokens in a step", "short", "Mean number of tokens that a step computed: the batch.",
              ("{{kind}}", f'{rate("winnow_computed_tokens_total", by="kind")} / ignoring (kind) group_left '
                           f'sum(rate({STEPS}[R]))')),
        graph("Steps by kind", "ops", "Steps per second by what they computed: prompts, generated tokens, or both.",
              ("{{kind}}", f"sum by (kind) (rate({STEPS}[R]))"), stack=True),
        graph("Sequences", "short", "Requests that have been started, by replica.",
              ("{{instance}}", "winnow_requests_running{{S}}")),
    ],
    "Step phases": [
        graph("Duration of a phase", "s", "Mean duration of the phases of a step.",
              ("{{phase}}", f'{rate("winnow_step_duration_seconds_sum", by="phase")} / '
                            f'{rate("winnow_step_duration_seconds_count", by="phase")}')),
        graph("Forward pass by kind of step", "s", "95th percentile of the forward pass by what the step computed.",
              ("{{kind}}", quantile(0.95, "winnow_step_duration_seconds", 'phase="forward"', "kind"))),
        graph("Time outside the forward pass", "percentunit", "Share of step time that scheduling and sampling take.",
              ("outside", f"1 - {FORWARD} / {STEP_TIME}")),
        graph("Busy", "percentunit", "Share of the time that steps take, by replica; 1 is saturation.",
              ("{{instance}}", rate("winnow_step_duration_seconds_sum", by="instance")), maximum=1),
    ],
    "KV cache": [
        graph("KV blocks", "short", "KV blocks by state; their sum is the pool.",
              ("{{state}} {{instance}}", "winnow_kv_blocks{{S}}"), stack=True),
        graph("KV pool in use", "percentunit", "Share of the KV blocks that sequences hold, by replica.",
              ("{{instance}}", 'sum by (instance) (winnow_kv_blocks{{S}, state="used"}) / '
                               'sum by (instance) (winnow_kv_blocks{{S}})'),
              maximum=1),
        graph("Preemptions", "ops", "Sequences per second that lost their KV blocks and were recomputed.",
              ("{{instance}}", rate("winnow_preemptions_total", by="instance"))),
        graph("Prompt tokens from the cache", "percentunit",
              "Share of prompt tokens whose keys and values were in the cache already.",
              ("cached", f'{rate("winnow_tokens_total", kind("cached"))} / '
                         f'{rate("winnow_tokens_total", kind("prompt"))}')),
        graph("Host tier", "short", "KV blocks that the host tier has room for, by state.",
              ("{{state}} {{instance}}", "winnow_kv_host_blocks{{S}}"), stack=True),
        graph("Blocks to and from the host tier", "ops",
              "KV blocks per second that left the pool for the host tier, came back, and lost their slot to others.",
              ("{{kind}} {{instance}}", rate("winnow_kv_host_moves_total", by="kind, instance"))),
        graph("Bytes to and from the host tier", "Bps", "What that moved.",
              ("{{kind}} {{instance}}", rate("winnow_kv_host_bytes_total", by="kind, instance"))),
    ],
}

READ = rate("winnow_kv_read_bytes_total")
DENSE = rate("winnow_kv_dense_equivalent_bytes_total")
SELECTED = rate("winnow_attention_tokens_total", kind("selected"))
CONSIDERED = rate("winnow_attention_tokens_total", kind("considered"))

SPARSITY = {
    "Now": [
        stat("Reads saved", "percentunit", "Share of the KV bytes of dense attention that were not read.",
             f"1 - {READ} / {DENSE}"),
        stat("KV bandwidth", "Bps", "Bytes of keys, values and labels that attention reads per second.", READ),
        stat("Mean budget", "percentunit", "Share of the past tokens that generated tokens attended to.",
             f"{SELECTED} / {CONSIDERED}"),
        stat("Mean recall", "percentunit", "Mean share of the true softmax mass that selected tokens held, as sampled.",
             f'{rate("winnow_attention_recall_sum")} / {rate("winnow_attention_recall_count")}'),
        stat("Fallbacks", "ops", "Budgets per second that were doubled because recall fell below --recall-floor.",
             rate("winnow_budget_fallbacks_total")),
        stat("Label cache", "bytes", "Labels of the KV blocks in use.", "sum(winnow_label_cache_bytes{{S}})"),
    ],
    "Bandwidth": [
        graph("KV bytes read, and dense", "Bps",
              "Bytes that attention read per second by kind, and what dense attention would have read.",
              ("{{kind}}", rate("winnow_kv_read_bytes_total", by="kind")), ("dense equivalent", DENSE)),
        graph("Reads saved", "percentunit",
              "Share of the KV bytes of dense attention that were not read, by replica.",
              ("{{instance}}", f'1 - {rate("winnow_kv_read_bytes_total", by="instance")} / '
                               f'{rate("winnow_kv_dense_equivalent_bytes_total", by="instance")}'), maximum=1),
        graph("Share of labels in what is read", "percentunit",
              "What choosing costs: bytes of labels among all bytes that attention read.",
              ("labels", f'{rate("winnow_kv_read_bytes_total", kind("labels"))} / {READ}')),
        graph("Label cache", "bytes", "Labels of the KV blocks in use, by replica.",
              ("{{instance}}", "winnow_label_cache_bytes{{S}}")),
    ],
    "Selection": [
        graph("Budget", "percentunit",
              "Share of the past tokens that generated tokens attended to, over layers and KV heads.",
              ("{{instance}}", f'{rate("winnow_attention_tokens_total", kind("selected"), "instance")} / '
                               f'{rate("winnow_attention_tokens_total", kind("considered"), "instance")}')),
        graph("Tokens considered and selected", "cps",
              "Tokens per second that generated tokens chose from and attended to, summed over layers and KV heads.",
              ("{{kind}}", rate("winnow_attention_tokens_total", by="kind"))),
    ],
    "Accuracy": [
        graph("Recall", "percentunit",
              "Share of the true softmax mass that selected tokens held, as sampled: mean, median, and what nine "
              "in ten samples exceed; and the mean share of attention that the estimate of the others had.",
              ("mean", f'{rate("winnow_attention_recall_sum")} / {rate("winnow_attention_recall_count")}'),
              ("p50", quantile(0.5, "winnow_attention_recall")),
              ("p10", quantile(0.1, "winnow_attention_recall")),
              ("estimated", f'{rate("winnow_attention_estimated_mass_sum")} / '
                            f'{rate("winnow_attention_estimated_mass_count")}'), maximum=1),
        heatmap("Recall, distribution", "percentunit", "Samples per second by recall.", "winnow_attention_recall"),
        graph("Fallbacks", "ops", "Budgets per second that were doubled because recall fell below --recall-floor.",
              ("{{instance}}", rate("winnow_budget_fallbacks_total", by="instance"))),
        graph("Samples of recall", "ops", "Measurements of recall per second; --recall-interval sets how often.",
              ("samples", rate("winnow_attention_recall_count"))),
    ],
}


def expand(query):
    return query.replace("{S}", SELECTOR).replace("[R]", "[$__rate_interval]")


def render_panel(panel, number, x, y, size):
    defaults = {"unit": panel["unit"], "min": 0}
    options = {}
    if panel["type"] == "timeseries":
        defaults["custom"] = {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"}
        if panel["stack"]:
            defaults["custom"]["stacking"] = {"mode": "normal"}
        if panel["max"] is not None:
            defaults["max"] = panel["max"]
        options = {"legend": {"displayMode": "list", "placement": "bottom"},
                   "tooltip": {"mode": "multi", "sort": "desc"}}
    elif panel["type"] == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
    elif panel["type"] == "heatmap":
        options = {"calculate": False, "yAxis": {"unit": panel["unit"]}, "color": {"scheme": "Blues"}}
    return {
        "id": number,
        "type": panel["type"],
        "title": panel["title"],
        "description": panel["description"],
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": size[0], "h": size[1]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expand(query), "legendFormat": legend,
             "format": "heatmap" if panel["type"] == "heatmap" else "time_series"}
            for i, (legend, query) in enumerate(panel["queries"])
        ],
    }


def render_rows(rows):
    panels, y = [], 0
    for title, members in rows.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": ROW_HEIGHT}, "panels": []})
        y += ROW_HEIGHT
        x = 0
        for panel in members:
            size = STAT_SIZE if panel["type"] == "stat" else GRAPH_SIZE
            if x + size[0] > COLUMNS:
                x, y = 0, y + size[1]
            panels.append(render_panel(panel, len(panels) + 1, x, y, size))
            x += size[0]
        y += size[1]
    return panels


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "query": query, "refresh": 2,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "includeAll": True, "multi": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"}}


def render(name, title, rows):
    return {
        "uid": f"winnow-{name}",
        "title": f"Winnow / {title}",
        "tags": ["winnow"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "title": "Winnow", "tags": ["winnow"], "asDropdown": False}],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
            variable("job", "Job", "label_values(winnow_build_info, job)"),
            variable("instance", "Instance", 'label_values(winnow_build_info{job=~"$job"}, instance)'),
        ]},
        "panels": render_rows(rows),
    }


def main():
    folder = pathlib.Path(__file__).parent
    stale = []
    for name, title, rows in (("service", "Service", SERVICE), ("engine", "Engine", ENGINE),
                              ("sparsity", "Sparsity", SPARSITY)):
        text = json.dumps(render(name, title, rows), indent=1) + "\n"
        path = folder / f"{name}.json"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"dashboards: {', '.join(stale)} not up to date: run deploy/grafana/dashboards.py")


if __name__ == "__main__":
    main()
