"""The page names the licence of every locked package, and every entry made by hand is needed."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from release import licences
from release.licences import PAGE, UnknownLicence, find_licence, is_copyleft, read_licence
from release.lock_file import read_lock


def test_the_page_is_the_one_of_the_lock_files() -> None:
    page = PAGE.read_text()
    assert page == licences.render_page(), "make licences"
    for pin in (*read_lock("cpu"), *read_lock("cuda")):
        assert f"\n| {pin.name} | " in page


def test_licences_are_read_from_the_versions_that_are_locked() -> None:
    others = {}
    for pin in read_lock("cpu"):
        try:
            if version(pin.name) != pin.version:
                others[pin.name] = version(pin.name)
        except PackageNotFoundError:
            others[pin.name] = "none"
    assert others == {}


def test_what_is_written_by_hand_is_locked_and_not_told_by_metadata() -> None:
    table = licences.read_table()
    cpu, cuda = ({pin.key for pin in read_lock(kind)} for kind in ("cpu", "cuda"))
    assert [name for name in table["packages"] if name not in cpu] == []
    assert [name for name in table["packages"] if read_licence(name) is not None] == []
    assert set(table["cuda"]) == cuda - cpu
    assert all(row["source"] for part in ("packages", "cuda") for row in table[part].values())


def test_a_package_that_nothing_is_known_of_is_refused() -> None:
    with pytest.raises(UnknownLicence, match="no-such-package"):
        find_licence("no-such-package")


def test_copyleft_is_seen_inside_an_expression() -> None:
    assert is_copyleft("MPL-2.0 AND (Apache-2.0 OR MIT)") and is_copyleft("LGPL-2.1-only")
    assert not is_copyleft("Apache-2.0 WITH LLVM-exception")
