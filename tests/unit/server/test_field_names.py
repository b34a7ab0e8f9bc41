import pytest

from multimodal.errors import MediaCorrupt
from server.errors import InvalidRequest
from server.field_names import named_by

NAMES = {"messages[2].content[0].image_url": "messages[1].content[3].source.data"}
(CORE_NAME,) = NAMES


@pytest.mark.parametrize("kind", [InvalidRequest, MediaCorrupt])
def test_error_names_the_field_of_the_body(kind):
    with pytest.raises(kind) as caught, named_by(NAMES):
        raise kind(f"`{CORE_NAME}` and `model` differ", "some_code", CORE_NAME)
    assert caught.value.param == NAMES[CORE_NAME]
    assert caught.value.message == f"`{NAMES[CORE_NAME]}` and `model` differ"
    assert caught.value.code == "some_code"


@pytest.mark.parametrize("param", ["model", None])
def test_fields_that_have_one_name_keep_it(param):
    with pytest.raises(InvalidRequest) as caught, named_by(NAMES):
        raise InvalidRequest("it's `model`", "some_code", param)
    assert (caught.value.param, caught.value.message) == (param, "it's `model`")


def test_other_errors_pass():
    with pytest.raises(RuntimeError), named_by(NAMES):
        raise RuntimeError
