"""The most memory that a forward pass holds at once, beside weights and KV cache.

Each function walks through what is alive at the same time. Widths are those of one device.
Letters: N patches, D the tower's hidden size, H the language model's, T tokens of a step, b bytes
of the dtype.
"""

from dataclasses import dataclass

from model_executor.sizing.model_shape import ModelShape
from model_executor.sizing.parallel_layout import ParallelLayout, padded_vocab_size

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes on one device. Pixels are there while the tower runs; the three passes take turns."""

    pixels: int
    vision: int
    language: int
    logits: int

    @property
    def peak(self) -> int:
        return max(self.pixels + self.vision, self.language, self.logits)


def pixel_bytes(model: ModelShape, num_patches: int, *, is_video: bool = False) -> int:
    """N * channels * patch_size**2 uint8, of an image's single frame or of two of a video."""
    vision = model.vision_config
    frames = vision.temporal_patch_size if is_video else 1
    return num_patches * vision.in_channels * vision.patch_size**2 * frames


def vision_bytes(
    model: ModelShape,
    layout: ParallelLayout,
    num_patches: int,
    *,
    is_cpu: bool,
    is_video: bool = False,
) -> int:
    """The vision tower on a batch of N patches: the largest of its four stages.

    embedding:  pixels * b, and again less 128, or the result: max(pixels, N D) * b more
    attention:  x, norm(x): 2 N D b; per device qkv: 3 N d b; q and k joined: 2 N d b; the rotation
    MLP:        x before and after attention, norm(x): 3 N D b; fc1 and its activation: 2 N I b
    output:     x: N D b; embeddings, in parts and joined: 2 N / 4 * embedding width * b

    The second and third hold the DeepStack levels found so far: levels * N / 4 * H * b.
    d = D and I = intermediate size, over the devices that share the tower.
    """
    vision, b = model.vision_config, model.dtype_bytes
    hidden = vision.hidden_size
    local = hidden // layout.vision_shards
    intermediate = vision.intermediate_size // layout.vision_shards
    num_tokens = num_patches // vision.merge_area
    num_levels = sum(index < vision.depth - 1 for index in vision.deepstack_visual_indexes)
    levels = num_levels * num_tokens * vision.out_hidden_size * b
    values = pixel_bytes(model, num_patches, is_video=is_video)
    embedding = (values + max(values, num_patches * hidden)) * b
    attention = num_patches * (2 * hidden * b + 5 * local * b + _rotary_bytes(local, b, is_cpu))
    mlp = num_patches * (3 * hidden + 2 * intermediate) * b
    output = num_patches * hidden * b + 2 * num_tokens * model.embedding_width * b
    return max(embedding, levels + attention, levels + mlp, output)


def _rotary_bytes(local: int, dtype_bytes: int, is_cpu: bool) -> int:
    """Rotating q and k of one patch in float32: the copy and the result, and the result's cast.

    The operator of a CPU joins the result of two halves, which are there as well.
    """
    one = 2 * local * _FLOAT32
    if dtype_bytes == _FLOAT32:
        return one + (one if is_cpu else 0)
    return 2 * one + 2 * local * dtype_bytes + (one if is_cpu else 0)


def language_bytes(
    model: ModelShape, layout: ParallelLayout, num_tokens: int, *, is_cpu: bool
) -> int:
    """The decoder on T tokens: input and residual of a layer, its own residual and normed input
    (4 T H b), and the widest of what follows.

    attention:  qkv, q and k normed, result: T (3 q + 3 kv) b; on a CPU, whose operator norms q in
                float32, qkv and six times q: T (7 q + 2 kv) b
    dense MLP:  gate and up, and their product: T 3 I b; the operator of a CPU needs one I more
    MoE:        see `expert_bytes`
    norm:       on a CPU, whose operator works in float32: 11 T H b in all

    The CPU's terms are measured in bfloat16.
    """
    text, b, tp = model.text_config, model.dtype_bytes, layout.tensor_parallel_size
    q = text.num_attention_heads * text.head_dim // tp
    kv = max(1, text.num_key_value_heads // tp) * text.head_dim
    widest = num_tokens * (7 * q + 2 * kv if is_cpu else 3 * (q + kv)) * b
    if not model.is_moe or text.mlp_only_layers:
        parts = 4 if is_cpu else 3
        widest = max(widest, num_tokens * parts * text.intermediate_size // tp * b)
    if model.is_moe:
        widest = max(widest, expert_bytes(model, layout, num_tokens))
    row = text.hidden_size * b
    return max(4 * num_tokens * row + widest, 11 * num_tokens * row if is_cpu else 0)


def expert_bytes(model: ModelShape, layout: ParallelLayout, num_tokens: int) -> int:
    """vLLM's two workspaces, of a row for every token and each of its experts.

    T k (max(I, H) + max(2 I, H)) b, and the router's logits T experts * 4. With data parallelism a
    device sees the tokens of all ranks: T times their number, and their hidden states. The rows
    quantised to 8 bits are smaller than the workspace that they go through.
    """
    text, b = model.text_config, model.dtype_bytes
    shards = 1 if layout.enable_expert_parallel else layout.num_expert_shards
    width = text.moe_intermediate_size // shards
    tokens = num_tokens * layout.data_parallel_size
    row = max(width, text.hidden_size) + max(2 * width, text.hidden_size)
    workspaces = tokens * text.num_experts_per_tok * row * b
    gathered = tokens * text.hidden_size * b if layout.data_parallel_size > 1 else 0
    return workspaces + gathered + tokens * text.num_experts * _FLOAT32


def logits_bytes(model: ModelShape, num_tokens: int, num_seqs: int) -> int:
    """T H b of hidden states; the logits of a token per sequence in b, in float32, and once more.

    num_seqs * padded vocabulary * (b + 4 + 4): the last is what sampling makes of them.
    """
    text, b = model.text_config, model.dtype_bytes
    rows = num_seqs * padded_vocab_size(text.vocab_size)
    return num_tokens * text.hidden_size * b + rows * (b + 2 * _FLOAT32)


def buffer_bytes(
    model: ModelShape, num_tokens: int, max_model_len: int, *, is_first_stage: bool = True
) -> int:
    """What stays allocated: T H b of input embeddings, T levels H b of DeepStack (first stage),
    and the rotary table, head_dim * b for every position of the context.
    """
    text, b = model.text_config, model.dtype_bytes
    num_levels = len(model.vision_config.deepstack_visual_indexes) if is_first_stage else 0
    positions = max(text.max_position_embeddings, max_model_len)
    return num_tokens * (1 + num_levels) * text.hidden_size * b + positions * text.head_dim * b
