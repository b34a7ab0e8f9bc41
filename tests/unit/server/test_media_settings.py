"""Media settings that contradict each other or mean nothing refuse to start."""

import pytest

from server.settings import MediaSettings, SettingsError, load_settings


@pytest.mark.parametrize("domain", ["a b", "http://x", "*", "a.example/path", "a..example"])
def test_allowed_domain_that_is_no_host_name_is_a_settings_error(domain):
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"media": {"allowed_domains": domain}})
    message = str(caught.value)
    assert message.startswith("media.allowed_domains (QWEN3VL_MEDIA__ALLOWED_DOMAINS): ")
    assert f"'{domain}' is not a host name" in message


def test_international_domain_is_kept_in_the_form_that_is_compared():
    domains = MediaSettings(allowed_domains="*.Bücher.example").allowed_domains
    assert domains == ("*.xn--bcher-kva.example",)


@pytest.mark.parametrize("given", [{}, {"max_total_decoded_bytes": 2**40 - 1}])
def test_memory_of_all_requests_is_at_least_that_of_one(given):
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"media": {"max_decoded_bytes": 2**40, **given}})
    message = str(caught.value)
    assert message.startswith("media.max_total_decoded_bytes (QWEN3VL_MEDIA__MAX_TOTAL_DECODED")
    assert f"must be at least max_decoded_bytes ({2**40})" in message


def test_memory_of_all_requests_may_be_that_of_one():
    settings = MediaSettings(max_decoded_bytes=2**40, max_total_decoded_bytes=2**40)
    assert settings.limits.max_total_decoded_bytes == 2**40
