"""Chat templates in Qwen3-VL's form, for the three kinds of checkpoint."""

from typing import Literal

TemplateKind = Literal["instruct", "thinking", "hybrid"]

_MESSAGES = """\
{%- macro render_content(content) -%}
    {%- if content is string -%}
        {{- content }}
    {%- else -%}
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
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set is_open_turn = message.role == 'assistant' and loop.index0 > last.query -%}
    {%- if is_open_turn and message.reasoning_content -%}
        {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif -%}
    {{- render_content(message.content) + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' }}
"""

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
