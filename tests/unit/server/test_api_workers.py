import pytest

from server.api_workers import share
from server.settings import MediaSettings, ServerSettings, Settings, SettingsError, load_settings

MIB = 1024**2


def make_settings(count: int, **media: int) -> Settings:
    server = ServerSettings(api_workers=count, max_concurrent_requests=10)
    return Settings(server=server, media=MediaSettings(**media))


@pytest.mark.parametrize(("count", "each"), [(1, 10), (2, 5), (3, 4), (10, 1), (64, 1)])
def test_requests_are_shared_out(count, each):
    assert share(make_settings(count)).server.max_concurrent_requests == each


@pytest.mark.parametrize(("count", "each"), [(1, 100), (2, 50), (3, 34)])
def test_connections_are_shared_out(count, each):
    settings = Settings(server={"api_workers": count, "max_connections": 100})
    assert share(settings).server.max_connections == each


@pytest.mark.parametrize(("count", "each"), [(1, 1000 * MIB), (2, 500 * MIB), (64, 64 * MIB)])
def test_bytes_are_shared_out_and_hold_one_body(count, each):
    settings = Settings(server={"api_workers": count, "max_total_body_bytes": 1000 * MIB})
    assert share(settings).server.max_total_body_bytes == each


@pytest.mark.parametrize(("count", "each"), [(2, 4), (3, 3), (16, 1)])
def test_threads_are_shared_out(count, each):
    assert share(make_settings(count, num_workers=8)).media.num_workers == each


def test_one_request_may_be_as_large_as_before():
    settings = make_settings(4, max_decoded_bytes=300 * MIB, max_total_decoded_bytes=800 * MIB)
    shared = share(settings).media
    assert shared.max_decoded_bytes == shared.max_total_decoded_bytes == 300 * MIB


def test_decoded_bytes_are_shared_out():
    settings = make_settings(4, max_decoded_bytes=100 * MIB, max_total_decoded_bytes=800 * MIB)
    assert share(settings).media.max_total_decoded_bytes == 200 * MIB


def test_responses_are_not_kept():
    assert share(make_settings(2)).responses.store_max_bytes == 0


def test_all_else_stays():
    settings = make_settings(2)
    shared = share(settings)
    assert shared.engine == settings.engine
    assert shared.cache == settings.cache
    assert shared.server.max_body_bytes == settings.server.max_body_bytes


@pytest.mark.parametrize(
    "engine", [{"lora_dir": "adapters", "enable_lora": True}, {"enable_sleep_mode": True}]
)
def test_what_clients_change_is_of_one_process(engine):
    overrides = {"server": {"api_workers": 2}, "engine": engine}
    message = rf"^engine\.{next(iter(engine))}: needs server\.api_workers to be 1"
    with pytest.raises(SettingsError, match=message):
        load_settings(None, overrides)


def test_a_profile_is_of_one_process(tmp_path):
    overrides = {"server": {"api_workers": 2, "profile_dir": str(tmp_path)}}
    with pytest.raises(SettingsError, match=r"server\.api_workers.*must be 1 with profile_dir"):
        load_settings(None, overrides)
