"""Rules between the fields of a body as JSON schemas; validators beside the fields enforce them."""

from pydantic import ConfigDict
from pydantic.config import JsonDict

NULL: JsonDict = {"type": "null"}


def with_rules(**rules: JsonDict) -> ConfigDict:
    """For a model's `model_config`; it replaces the rules of the class above.

    Args:
        rules: field -> what else holds where it is set.
    """
    conditions: JsonDict = {
        field: {"anyOf": [{"properties": {field: NULL}}, rule]} for field, rule in rules.items()
    }
    return ConfigDict(json_schema_extra={"dependentSchemas": conditions})


def needs(flag: str) -> JsonDict:
    """`flag` is true."""
    return {"properties": {flag: {"const": True}}, "required": [flag]}


def excludes(*fields: str) -> JsonDict:
    """`fields` are not set."""
    return {"properties": dict.fromkeys(fields, NULL)}
