"""The bytes of tokens make up the text again."""

from demo.tokenizer import build_tokenizer
from server.token_bytes import token_bytes


def test_bytes_of_the_tokens_of_any_text_make_up_the_text() -> None:
    tokenizer = build_tokenizer()
    by_id = token_bytes(tokenizer)
    text = "The picture\n\tshows 中文 🙂 Zażółć\x00\x7f\xad 100 %<|im_end|>"
    assert b"".join(by_id[i] for i in tokenizer.encode(text)).decode() == text


def test_all_256_bytes_have_a_token() -> None:
    assert {bytes([value]) for value in range(256)} <= set(token_bytes(build_tokenizer()).values())
