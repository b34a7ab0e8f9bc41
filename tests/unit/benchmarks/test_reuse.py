"""The images of one measurement: the share of known ones that was asked for, each once."""

from benchmarks.reuse import mix


def parts(first: int, count: int) -> list[dict[str, object]]:
    return [{"image": first + index} for index in range(count)]


def test_known_and_new_images_are_mixed_without_repetition() -> None:
    known, new = parts(0, 100), parts(100, 20)
    mixed = mix(known, 80, new, seed=1)
    numbers = [part["image"] for part in mixed]
    assert len(set(numbers)) == len(numbers) == 100
    assert sum(part in new for part in mixed) == 20


def test_the_order_is_that_of_the_seed() -> None:
    known, new = parts(0, 100), parts(100, 20)
    assert mix(known, 80, new, seed=1) == mix(known, 80, new, seed=1)
    assert mix(known, 80, new, seed=1) != mix(known, 80, new, seed=2)
