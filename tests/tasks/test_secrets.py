import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.secrets import find_secret, redact, redact_values

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", min_size=8, max_size=60)


@given(
    TOKEN, st.sampled_from(["access_token", "token", "key", "api_key", "apikey", "sig", "password", "X-Amz-Signature"])
)
def test_query_values_that_are_secrets_go(token: str, name: str) -> None:
    told = redact(f"GET https://host/a/b?x=1&{name}=S{token}&y=2 answered 403")
    assert told == f"GET https://host/a/b?x=1&{name}=***&y=2 answered 403"


@given(TOKEN)
def test_user_info_and_mapbox_tokens_go(token: str) -> None:
    assert redact(f"s3+http://me:S{token}@host/x") == "s3+http://***@host/x"
    assert token not in redact(f"the token pk.{token} is bad")


@given(st.text(alphabet="abc /.:-?=0123456789", max_size=80))
def test_plain_text_stays(text: str) -> None:
    if "key=" not in text and "@" not in text:
        assert redact(text) == text


def test_values_are_redacted_at_every_depth() -> None:
    values = {"a": ["http://h/?token=SECRET", {"b": "x?key=SECRET"}], "n": 3}
    assert redact_values(values) == {"a": ["http://h/?token=***", {"b": "x?key=***"}], "n": 3}


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", " from the environment \n")
    assert find_secret("MY_SECRET", "no-such-block") == "from the environment"


def test_without_a_prefect_api_no_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert find_secret("MY_SECRET", "no-such-block") is None


@pytest.mark.server
def test_a_prefect_secret_block_is_found(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret

    monkeypatch.delenv("MY_SECRET", raising=False)
    assert find_secret("MY_SECRET", "mapbox-access-token") is None
    Secret(value="pk.from-a-block").save("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    assert find_secret("MY_SECRET", "mapbox-access-token") == "pk.from-a-block"
    Secret.delete("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    assert find_secret("MY_SECRET", "mapbox-access-token") is None
