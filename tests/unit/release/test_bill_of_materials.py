"""Bills of materials hold what is locked, and fit CycloneDX's schema."""

import json
from pathlib import Path

import pytest

from release import bill_of_materials
from release.bill_of_materials import KINDS, InvalidBill, check_bill, render_bill
from release.licences import find_licence
from release.lock_file import read_lock


@pytest.mark.parametrize("kind", KINDS)
def test_a_bill_holds_every_locked_package_with_its_licence(kind: str) -> None:
    bill = json.loads(render_bill(kind))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "qwen3vl-serve"
    found = {c["name"]: c for c in bill["components"]}
    assert {name: c["version"] for name, c in found.items()} == {
        pin.name: pin.version for pin in read_lock(kind)
    }
    assert found["certifi"]["licenses"] == [{"license": {"id": find_licence("certifi")}}]
    assert found["regex"]["licenses"][0]["expression"] == find_licence("regex")
    assert found["torch"]["purl"].startswith("pkg:pypi/torch@2.13.0")


def test_a_bill_says_which_package_needs_which() -> None:
    bill = json.loads(render_bill("cpu"))
    needs = {d["ref"].partition("@")[0]: d.get("dependsOn", []) for d in bill["dependencies"]}
    names = {ref.partition("@")[0] for ref in needs["pkg:pypi/httpx"]}
    assert {"pkg:pypi/httpcore", "pkg:pypi/certifi"} <= names
    assert len(needs["pkg:pypi/qwen3vl-serve"]) == len(bill["components"])


def test_what_does_not_fit_the_schema_is_refused() -> None:
    with pytest.raises(InvalidBill):
        check_bill('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{}]}')


def test_one_file_for_each_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bill_of_materials, "render_bill", lambda kind: kind)
    bill_of_materials.main(tmp_path / "dist")
    written = {path.name: path.read_text() for path in (tmp_path / "dist").iterdir()}
    assert written == {f"qwen3vl-serve-{kind}.cdx.json": kind for kind in KINDS}
