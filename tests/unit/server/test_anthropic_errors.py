import pytest

from server.anthropic.dialect import AnthropicDialect


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "invalid_request_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_error_has_the_type_of_its_status(status, kind):
    error = {"type": "server_error", "message": "no", "param": "model", "code": "some_code"}
    assert AnthropicDialect().describe_error({"error": error}, status) == {
        "type": "error",
        "error": {"type": kind, "message": "no", "param": "model", "code": "some_code"},
    }
