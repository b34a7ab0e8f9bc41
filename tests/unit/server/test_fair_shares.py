"""Whoever floods leaves something for others."""

import pytest

from server.errors import Overloaded
from server.fair_shares import FairShares
from server.held_bytes import BodyBytes


def take_all(shares: FairShares, client_id: str) -> int:
    num_taken = 0
    while shares.take(client_id):
        num_taken += 1
    return num_taken


@pytest.mark.parametrize(
    ("limit", "taken"), [(1, 1), (2, 1), (8, 7), (16, 14), (256, 224), (65536, 57344)]
)
def test_one_client_gets_seven_eighths(limit: int, taken: int) -> None:
    shares = FairShares(limit, least=1)
    assert take_all(shares, "flood") == taken


def test_a_client_that_comes_later_finds_places() -> None:
    shares = FairShares(256, least=1)
    take_all(shares, "flood")
    assert [take_all(shares, client) for client in "abc"] == [28, 3, 1]


def test_shares_become_even_as_places_are_given_back() -> None:
    shares = FairShares(256, least=1)
    held = {client: take_all(shares, client) for client in ("flood", "light")}
    for _ in range(500):  # the flood gives one back and wants two more
        shares.give_back("flood")
        held["flood"] -= 1
        held["light"] += take_all(shares, "light")
        held["flood"] += take_all(shares, "flood")
    assert sum(held.values()) < 256 and abs(held["flood"] - held["light"]) <= 1


def test_all_that_is_given_back_can_be_taken_again() -> None:
    shares = FairShares(10, least=10)
    assert shares.take("a", 10) and not shares.take("b", 1)
    shares.give_back("a", 10)
    assert shares.take("b", 10)


def test_a_refusal_changes_nothing() -> None:
    shares = FairShares(10, least=10)
    assert not shares.take("a", 11)
    assert shares.take("a", 10)


def test_what_every_client_may_have_is_given_while_it_is_there() -> None:
    shares = FairShares(100, least=40)
    assert [shares.take(client, 40) for client in "abc"] == [True, True, False]
    assert shares.take("c", 20)


def test_a_request_gives_back_all_that_it_holds() -> None:
    held_bytes = BodyBytes(100, 100)
    for _ in range(3):
        with held_bytes.account("a") as held:
            held.take(60)
            held.take(40)
            with held_bytes.account("b") as other, pytest.raises(Overloaded, match=r"\(100\)"):
                other.take(1)
            held.give_back(50)
            held.take(50)
