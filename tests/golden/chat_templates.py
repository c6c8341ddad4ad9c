"""Chat templates for make_chat_templates.py, after those that models publish in
tokenizer_config.json; those of several lines are files in chat_templates/. They are written after
the models' behaviour and were not compared with the models' own files, except for the demo model's,
which is the one in its file. What they say in words to models is mostly shortened. Made up as
variants: CHATML_TEXT, QWQ (Qwen 2.5's with another last line), VICUNA_STRIP, VICUNA_SPACES, and
what is "outside of literals".
"""

import pathlib


def read(name):
    return (pathlib.Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."
AFTER_SYSTEM = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] +"
    " '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_BOS = (
    "{{bos_token}}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' +"
    " message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_TEXT = """\
{%- for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions: <tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWQ = QWEN25.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}")

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('" + ALTERNATE + "') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA2_DEFAULT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% elif true == true and not '<<SYS>>' in messages[0]['content'] %}"
    "{% set loop_messages = messages %}{% set system_message = 'Vous êtes Vigogne, un assistant IA"
    " créé par Zaion Lab. Vous suivez extrêmement bien les instructions. Aidez autant que vous le"
    " pouvez.' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}"
    "{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('" + ALTERNATE + "') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'system' %}"
    "{{ '<<SYS>>\\n' + content.strip() + '\\n<</SYS>>\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+"
    " message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
LLAMA31 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message + builtin tools #}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions: " }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary}.' }}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content }}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL_OLD = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('" + ALTERNATE + "') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token@ }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_V1 = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('""" + AFTER_SYSTEM + """') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, with the exception of an initial optional system message!') }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_V3 = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception(\"""" + AFTER_SYSTEM + """\") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {{- "}}" }}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_TEKKEN = (
    MISTRAL_V3.replace('"[INST] "', '"[INST]"')
    .replace('" " + message["content"]|trim + eos_token', 'message["content"] + eos_token')
    .replace("[AVAILABLE_TOOLS] [", "[AVAILABLE_TOOLS][")
    .replace("[TOOL_CALLS] [", "[TOOL_CALLS][")
)

VICUNA = (
    "{%- for message in messages %}{%- if message['role'] == 'system' -%}"
    "{{- '' + message['content'] + '\\n\\n' -}}{%- else -%}{%- if message['role'] == 'user' -%}"
    "{{-'USER: ' + message['content'] + '\\n'-}}{%- else -%}"
    "{{-'ASSISTANT: ' + message['content'] + '</s>\\n' -}}{%- endif -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{-'ASSISTANT:'-}}{%- endif -%}"
)
ORCA_VICUNA = VICUNA.replace("{{- '' + message['content'] + '\\n\\n' -}}",
                             "{{-'SYSTEM: ' + message['content'] + '\\n' -}}")
# Published with line breaks and indentation for reading, which are then taken out.
VICUNA_TRIM = """\
{% if messages[0]['role'] == 'system' %}
    {% set system_message = messages[0]['content'] | trim + '\\n\\n' %}
    {% set messages = messages[1:] %}
{% else %}
    {% set system_message = '' %}
{% endif %}
{{ bos_token + system_message }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('@') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ 'USER: ' + message['content'] | trim + '\\n' }}
    {% elif message['role'] == 'assistant' %}
        {{ 'ASSISTANT: ' + message['content'] | trim + eos_token + '\\n' }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{ 'ASSISTANT:' }}
{% endif %}
""".replace("    ", "").replace("\n", "").replace("@", ALTERNATE)
VICUNA_STRIP = VICUNA_TRIM.replace("message['content'] | trim", "message['content'].strip()").replace(
    "messages[0]['content'] | trim", "messages[0]['content'].strip()"
)
# Vicuna 1.1 as it was trained, on one line.
VICUNA_SPACES = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] + ' ' }}{% elif message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'] + ' ' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# Name: BOS, EOS, template, and the one for conversations with tools where that is another.
KNOWN = {
    "SmolLM2": ("<|im_start|>", "<|im_end|>", read("smollm2")),
    "SmolLM3": ("<|im_start|>", "<|im_end|>", read("smollm3")),
    "OpenHermes 2.5": ("<s>", "<|im_end|>", CHATML),
    "Hermes 2 Pro": ("<|begin_of_text|>", "<|im_end|>", CHATML_BOS, read("hermes3_tools")),
    "Yi": ("<|startoftext|>", "<|im_end|>", "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" + CHATML),
    "ChatML outside of literals": ("", "<|im_end|>", CHATML_TEXT),
    "Qwen 2": ("", "<|im_end|>", QWEN2),
    "Qwen 2.5": ("", "<|im_end|>", QWEN25),
    "Qwen 2.5 with tools": ("", "<|im_end|>", read("qwen25_tools")),
    "QwQ": ("", "<|im_end|>", QWQ),
    "Qwen 3": ("", "<|im_end|>", read("qwen3")),
    "Llama 2": ("<s>", "</s>", LLAMA2),
    "Vigogne 2": ("<s>", "</s>", LLAMA2_DEFAULT),
    "Llama 2 with its default disabled": (
        "<s>",
        "</s>",
        LLAMA2_DEFAULT.replace("true == true", "false == true"),
    ),
    "Llama 3": ("<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "Llama 3 without trim": ("<|begin_of_text|>", "<|eot_id|>", LLAMA3.replace(" | trim", "")),
    "ChatML with trim": ("<s>", "<|im_end|>", CHATML.replace("message['content']", "message['content'] | trim")),
    "Llama 3.1": ("<|begin_of_text|>", "<|eot_id|>", LLAMA31),
    "Llama 3.1 with tools": ("<|begin_of_text|>", "<|eot_id|>", read("llama31_tools")),
    "Llama 3.2": ("<|begin_of_text|>", "<|eot_id|>", read("llama32")),
    "Mistral 7B v0.1": ("<s>", "</s>", MISTRAL_OLD.replace("@", " + ' '")),
    "Mixtral 8x7B": ("<s>", "</s>", MISTRAL_OLD.replace("@", "")),
    "Mistral v1": ("<s>", "</s>", MISTRAL_V1),
    "Mistral v3": ("<s>", "</s>", MISTRAL_V3),
    "Mistral v3 Tekken": ("<s>", "</s>", MISTRAL_TEKKEN),
    "Mistral v0.3 with tools": ("<s>", "</s>", read("mistral_v3_tools")),
    "Mistral Nemo": ("<s>", "</s>", read("mistral_nemo")),
    "Vicuna": ("", "</s>", VICUNA),
    "Orca Vicuna": ("", "</s>", ORCA_VICUNA),
    "Vicuna with trim": ("<s>", "</s>", VICUNA_TRIM),
    "Vicuna with strip": ("<s>", "</s>", VICUNA_STRIP),
    "Vicuna on one line": ("<s>", "</s>", VICUNA_SPACES),
    "Phi 3": ("<s>", "<|endoftext|>", read("phi3")),
    "Phi 3.5": ("<s>", "<|endoftext|>", read("phi35")),
    "Phi 4": ("<|endoftext|>", "<|im_end|>", read("phi4")),
    "Phi 4 mini": ("<|endoftext|>", "<|endoftext|>", read("phi4_mini")),
    "Gemma 2": ("<bos>", "<eos>", read("gemma2")),
    "Gemma 3": ("<bos>", "<eos>", read("gemma3")),
    "DeepSeek R1 distilled": (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        read("deepseek_r1_distill"),
    ),
    "Command R": (
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        read("command_r"),
        read("command_r_tool_use"),
    ),
    "OLMo": ("", "<|endoftext|>", read("olmo")),
    "OLMo 2": ("<|endoftext|>", "<|endoftext|>", read("olmo2")),
    "Granite 3": ("<|end_of_text|>", "<|end_of_text|>", read("granite3")),
    "Harmony": ("<|startoftext|>", "<|return|>", read("harmony")),
    "A vision model": ("<s>", "</s>", read("vision_parts_only")),
    "Zephyr": (
        "<s>",
        "</s>",
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}",
    ),
    "Gemma": (
        "<bos>",
        "<eos>",
        "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n'"
        " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}",
    ),
    "Mistral v7": (
        "<s>",
        "</s>",
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}"
        "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}{% endif %}{% endfor %}",
    ),
    "Mistral outside of literals": (
        "<s>",
        "</s>",
        "{% for message in messages %}\n  {% if message['role'] == 'user' %}\n"
        "  [INST] {{ message['content'] }} [/INST]\n  {% else %}\n"
        "  {{ message['content'] + eos_token }}\n  {% endif %}\n{% endfor %}",
    ),
    "Vicuna outside of literals": (
        "<s>",
        "</s>",
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "USER: {{ message['content'] }} {% else %}ASSISTANT: {{ message['content'] }}</s>{% endif %}"
        "{% endfor %}ASSISTANT:",
    ),
    "empty": ("", "", ""),
    "no template": ("", "", "Hello"),
    "lone brace": ("", "", "{"),
    "values as Python has them": (
        "",
        "",
        "{# <|im_start|> #}{{ messages }}|{{ tools }}|{{ none }}|{{ 1.0 }}|{{ 1e20 }}|{{ true }}|"
        "{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 2 ** 10 }}|{{ 'a' ~ 1 ~ none }}|"
        "{{ [1, 'b', none, 2.50] }}|{{ 'x' * 3 }}|{{ messages | length }}|{{ messages[-1].role }}|"
        "{{ messages[0].content[::-1] }}|{{ messages[0].content[1:3] }}|{{ messages[0].content[-2:] }}|"
        "{{ ' a b  c '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ messages[0].content.upper() }}|"
        "{{ 'hello world'.title() }}|{{ messages[0].content | tojson }}|"
        "{{ {'b': 1, 'a': [true, none]} | tojson }}|{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}|"
        "{{ messages | map(attribute='role') | join(', ') }}|{{ messages | selectattr('role', 'eq', 'user') | list | length }}|"
        "{{ 'x' if messages[0].content is string }}|{{ 3 is odd }}|{{ messages[0].missing }}|"
        "{{ messages[0].missing is defined }}|{{ 'e' in messages[0].content }}|"
        "{{ (messages | last).content | default('none', true) }}|{{ ['b', 'A', 'c'] | sort }}|"
        "{{ range(3) | list }}|{{ 'abc'.find('c') }}|{{ 'a' < 'b' }}|{{ [1, 2] + [3] }}|"
        "{{ dict(a=1, b='x') }}|{{ messages[0].keys() | list }}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}|{{ 'it\\'s' | list | length }}",
    ),
}

# What Jinja itself can't compile.
BROKEN = {
    "open comment": "{# <|im_start|>",
    "open expression": "{{ 'a",
    "open block": "{% for message in messages %}{{ message.content }}",
    "unknown tag": "{% frobnicate %}",
    "missing operand": "{{ 1 + }}",
}
