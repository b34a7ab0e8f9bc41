import json
import random

import pytest

from server.tools.json_scanner import MAX_DEPTH, JsonScanner, is_json_object

DOCUMENTS = [
    '{"a": [1, -0.5e+3, {"b": null}], "ü": "x\\"\\\\\\u00e9\\n", "": {}}',
    '[true, false, null, 0, -1, 10, 1E5, 0.1e-2, "\\ud83d\\ude00", [], [[]], {}]',
    '{"text": "{\\"not\\": [an object"}',
    '\t{\n"a"\r: 1 ,"b":[ ] } ',
]


def scan(text: str, size: int = 1) -> tuple[str, bool, bool]:
    """What belongs to the value at the beginning of `text`, and how the scan ended."""
    scanner = JsonScanner()
    taken = ""
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        end = scanner.scan(piece, 0)
        taken += piece[:end]
        if end < len(piece):
            break
    return taken, scanner.is_complete, scanner.is_malformed


def is_valid(text: str) -> bool:
    """By Python's parser, which accepts some constants that JSON does not have."""
    try:
        json.loads(text, parse_constant=lambda name: int(name))
    except ValueError:
        return False
    return True


def mutate(text: str, generator: random.Random) -> str:
    position = generator.randrange(len(text))
    removed = generator.choice((0, 1, 1, 2))
    inserted = generator.choice(["", *'"\\{}[],:0123456789.eE+-tfnu \n\x01x'])
    return text[:position] + inserted + text[position + removed :]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_end_of_a_value_is_found_however_it_arrives(document, size):
    value = document.rstrip()
    assert scan(value + " , rest", size) == (value, True, False)


def test_scanner_agrees_with_the_parser_of_python_on_damaged_documents():
    generator = random.Random(1)
    num_valid = 0
    for _ in range(20_000):
        text = generator.choice(DOCUMENTS)
        for _ in range(generator.randrange(1, 4)):
            text = mutate(text, generator)
        if "\\ud" in text:  # Python takes half a surrogate pair
            continue
        taken, is_complete, _ = scan(f"[{text}]", generator.randrange(1, 9))
        assert (is_complete and taken == f"[{text}]") == is_valid(f"[{text}]"), text
        num_valid += is_complete
    assert num_valid > 1000


@pytest.mark.parametrize("number", ["0", "-0", "12", "-1.50", "1e5", "1E+05", "0.0e-0"])
def test_a_number_ends_with_the_character_after_it(number):
    assert scan(number) == (number, False, False)
    assert scan(number + ",") == (number, True, False)


def test_a_zero_leads_no_number():
    assert scan("01") == ("0", True, False)
    assert scan("[01]") == ("[0", False, True)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("1.}", "1."),
        ("-a", "-"),
        ("1e+,", "1e+"),
        ("[1 2]", "[1 "),
        ("[1,]", "[1,"),
        ("[,", "["),
        ('{"a" 1}', '{"a" '),
        ('{"a":}', '{"a":'),
        ('{"a":1,}', '{"a":1,'),
        ("{a", "{"),
        ("[}", "["),
        ('{"a":1]', '{"a":1'),
        ("nil", "n"),
        ("NaN", ""),
        ("'a'", ""),
        ('"a\nb"', '"a'),
        ('"\x1f"', '"'),
        (r'"\x"', '"\\'),
        (r'"\u00g0"', r'"\u00'),
        ("１", ""),
        ("[1１]", "[1"),
    ],
)
def test_the_wrong_character_is_not_taken(text, taken):
    assert scan(text) == (taken, False, True)
    assert scan(text, 1000) == (taken, False, True)


@pytest.mark.parametrize(
    "text", [r'"\ud800"', r'"\ud800x"', r'"\ud800\n"', r'"\ud800\ud800"', r'"\udc00"']
)
def test_half_a_surrogate_pair_is_malformed(text):
    assert scan(text)[1:] == (False, True)


def test_surrogate_pairs_and_other_escapes_follow_each_other():
    text = r'"\ud83d\ude00\ud83d\ude00\n\u00e9\uFFFF"'
    assert scan(text) == (text, True, False)


def test_depth_is_bounded():
    assert scan("[" * MAX_DEPTH + "]" * MAX_DEPTH)[1]
    assert scan("[" * (MAX_DEPTH + 1)) == ("[" * MAX_DEPTH, False, True)
    siblings = "[" + "[]," * 1000 + "[]]"
    assert scan(siblings) == (siblings, True, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", True),
        (' {"a": 1}\n', True),
        ('{"a": 1', False),
        ("{} {}", False),
        ("[]", False),
        ("1", False),
        ("", False),
    ],
)
def test_objects_are_told_from_other_text(text, expected):
    assert is_json_object(text) is expected
