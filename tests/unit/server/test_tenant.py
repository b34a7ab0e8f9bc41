import re

import pytest
from starlette.datastructures import Headers

from server.access.client import Client, client_id, read_api_key
from server.settings import CacheSettings


def tenant(api_key: str | None, **settings) -> str:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return tenant_of(Headers(headers), **settings)


def tenant_of(headers: Headers, **settings) -> str:
    return Client(client_id(read_api_key(headers))).tenant(CacheSettings(**settings))


def test_a_client_with_an_api_key_has_a_salt_of_hex_digits():
    assert re.fullmatch("[0-9a-f]{32}", tenant("secret"))


def test_the_same_api_key_is_the_same_tenant():
    assert tenant("secret") == tenant("secret")


def test_other_api_keys_are_other_tenants():
    assert tenant("secret") != tenant("Secret")


def test_the_api_key_is_not_in_the_salt():
    assert "c0ffee" not in tenant("c0ffee")


@pytest.mark.parametrize("api_key", ["secret", "", "ключ"])
def test_a_client_with_an_api_key_shares_nothing_with_those_without(api_key):
    headers = Headers(raw=[(b"authorization", f"Bearer {api_key}".encode())])
    assert tenant_of(headers) != ""


def test_clients_without_an_api_key_are_one_tenant():
    assert tenant(None) == ""
    assert tenant_of(Headers({"authorization": ""})) == ""


def test_all_clients_are_one_tenant_if_that_is_asked_for():
    assert tenant("secret", tenant_salt="none") == tenant(None, tenant_salt="none") == ""
