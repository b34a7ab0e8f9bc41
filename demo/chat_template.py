"""Chat templates in Qwen3-VL's form, for the three kinds of checkpoint."""

from typing import Literal

TemplateKind = Literal["instruct", "thinking", "hybrid"]

_TOOLS_HEAD = "# Tools\\n\\nYou may call these functions:\\n<tools>\\n"
_TOOLS_TAIL = (
    "</tools>\\n\\nTo call one, answer with its name and arguments:\\n"
    '<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>'
)

_MESSAGES = """\
{%- macro render_content(content) -%}
    {%- if content is string -%}
        {{- content }}
    {%- elif content -%}
        {%- for part in content -%}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part -%}
                {{- part.text }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set last = namespace(query=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set last.query = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' -%}
        {{- render_content(messages[0].content) + '\\n\\n' }}
    {%- endif -%}
    {{- 'TOOLS_HEAD' }}
    {%- for tool in tools -%}{{- tool | tojson + '\\n' }}{%- endfor -%}
    {{- 'TOOLS_TAIL<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}
            {{- '<|im_start|>user' }}
        {%- endif -%}
        {{- '\\n<tool_response>\\n' + render_content(message.content) }}
        {{- '\\n</tool_response>' }}
        {%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' -%}
            {{- '<|im_end|>\\n' }}
        {%- endif -%}
    {%- elif not (tools and loop.first and message.role == 'system') -%}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- set is_open_turn = message.role == 'assistant' and loop.index0 > last.query -%}
        {%- if is_open_turn and message.reasoning_content -%}
            {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif -%}
        {{- render_content(message.content) }}
        {%- for call in message.tool_calls or [] -%}
            {{- '\\n' if message.content or not loop.first }}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {%- set arguments = call.function.arguments -%}
            {{- arguments if arguments is string else arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor -%}
        {{- '<|im_end|>\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' }}
""".replace("TOOLS_HEAD", _TOOLS_HEAD).replace("TOOLS_TAIL", _TOOLS_TAIL)

_GENERATION: dict[TemplateKind, str] = {
    "instruct": "",
    "thinking": "    {{- '<think>\\n' }}\n",
    "hybrid": (
        "    {%- if enable_thinking is defined and enable_thinking is false -%}\n"
        "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
        "    {%- endif -%}\n"
    ),
}


def chat_template(kind: TemplateKind) -> str:
    """Jinja source: `instruct` never thinks, `thinking` opens the block, `hybrid` has a switch."""
    return _MESSAGES + _GENERATION[kind] + "{%- endif -%}\n"
