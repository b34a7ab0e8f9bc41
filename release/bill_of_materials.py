"""Bills of materials: `python -m release.bill_of_materials FOLDER` writes one for each server.

CycloneDX 1.6 in JSON, from the lock files and the metadata of the installed packages. Which package
needs which is told of installed ones only, so not of those that only the CUDA server has.
"""

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.licences import find_licence
from release.lock_file import Pin, read_lock
from server.version import PROJECT, find_version

KINDS = ("cpu", "cuda")


class InvalidBill(Exception):
    """It does not fit the schema of CycloneDX."""


def render_bill(kind: str) -> str:
    """The bill of `requirements/KIND.lock` and of the project itself.

    Raises: UnknownLicence, InvalidBill.
    """
    pins = read_lock(kind)
    components = {pin.key: _describe(pin) for pin in pins}
    project = _describe(Pin(PROJECT, find_version(PROJECT) or "0"), ComponentType.APPLICATION)
    bill = Bom(components=components.values())
    bill.metadata.component = project
    bill.register_dependency(project, components.values())
    for key, component in components.items():
        needed = (components[name] for name in _find_needed(key) if name in components)
        bill.register_dependency(component, needed)
    text = JsonV1Dot6(bill).output_as_string(indent=2)
    check_bill(text)
    return text


def check_bill(text: str) -> None:
    """Raises: InvalidBill."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise InvalidBill(str(error)[:2000])


def _describe(pin: Pin, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    licence = "Apache-2.0" if pin.name == PROJECT else find_licence(pin.name)
    address = PackageURL("pypi", name=pin.key, version=pin.version)
    return Component(
        name=pin.name,
        version=pin.version,
        type=kind,
        purl=address,
        bom_ref=str(address),
        licenses=[LicenseFactory().make_from_string(licence)],
    )


def _find_needed(name: str) -> Iterator[str]:
    """Canonical names of what an installed package asks for here, without its extras."""
    try:
        wanted: Iterable[str] = requires(name) or ()
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / f"{PROJECT}-{kind}.cdx.json").write_text(render_bill(kind))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
