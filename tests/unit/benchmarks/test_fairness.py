"""What is made of the times of three servers."""

from collections.abc import Mapping

from benchmarks.fairness import Measured, Side, Times, merged, report


def measured(alone: float, beside: float) -> Measured:
    times = {num: Times([beside, 2 * beside, beside], [0.5, 0.25, 0.5], [9.0]) for num in (1, 3, 6)}
    return {0: Times([alone], [0.125]), **times}


def test_rounds_are_put_together() -> None:
    both = merged([measured(0.25, 2.0), measured(0.5, 4.0)])
    assert both[0].short == [0.25, 0.5]
    assert both[6].short == [2.0, 4.0, 2.0, 4.0, 8.0, 4.0]
    assert both[6].long == [9.0, 9.0]


def test_ours_is_compared_with_stock_and_with_itself() -> None:
    found: Mapping[Side, Measured] = {
        "ours": measured(0.25, 0.5),
        "ours, not fair": measured(0.25, 8.0),
        "stock": measured(0.25, 4.0),
    }
    document = report(found)
    rows = {row.name: row for row in document.rows}
    row = rows["beside 6 long: short, first token, median"]
    assert (row.ours, row.stock, row.ratio) == (500, 4000, 8)
    assert rows["beside 6 long: short, first token, median [second: ours, not fair]"].stock == 8000
    assert rows["beside 1 long: short, first token, worst"].ours == 1000
    assert "alone: long, first token, median" not in rows
    assert [aim.measured for aim in document.aims] == [1, 8]
    assert all(aim.is_met for aim in document.aims)
