"""The bytes behind each token id of a byte-level BPE tokenizer, as Qwen's are."""

from collections.abc import Iterable, Sequence
from typing import Any


def token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """Token id -> bytes, for a transformers tokenizer.

    Models have more ids than tokenizers have tokens (their tables are padded); those are not here.
    """
    return _find_bytes(tokenizer, tokenizer.get_vocab().items())


def bytes_of(tokenizer: Any, token_ids: Sequence[int]) -> list[bytes]:
    """The bytes of a few tokens."""
    found = _find_bytes(
        tokenizer, zip(tokenizer.convert_ids_to_tokens(token_ids), token_ids, strict=True)
    )
    return [found[token_id] for token_id in token_ids]


def _find_bytes(tokenizer: Any, tokens: Iterable[tuple[str, int]]) -> dict[int, bytes]:
    alphabet = {character: byte for byte, character in enumerate(_byte_characters())}
    found: dict[int, bytes] = {}
    added = tokenizer.added_tokens_decoder
    for token, token_id in tokens:
        if token_id in added:
            found[token_id] = added[token_id].content.encode()
        else:
            found[token_id] = bytes(alphabet[character] for character in token)
    return found


def _byte_characters() -> list[str]:
    """The character that stands for each byte in the vocabulary (the alphabet of GPT-2).

    Printable bytes stand for themselves, the others for the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters = []
    num_others = 0
    for byte in range(256):
        is_printable = byte in printable
        characters.append(chr(byte if is_printable else 256 + num_others))
        num_others += not is_printable
    return characters
