import base64
import html
import json
import logging
import time
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tasks.errors import SourceError
from tasks.secrets import (
    Remembered,
    find_secret,
    guard_logs,
    hide_by_name,
    is_secret_header,
    is_secret_name,
    redact,
    redact_values,
    remember,
    remember_environment,
    remember_url,
)

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", min_size=8, max_size=60)
ANY = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=40)
_SECRET = (
    "access_token apiToken accessToken access-token token api_key apikey API-KEY key map_key subscription-key "
    "Ocp-Apim-Subscription-Key tk auth authorization client_secret secret pwd password passwd pass license_key licence "
    "appid app_id sig signature sas X-Amz-Signature X-Amz-Security-Token X-Amz-Credential AWSAccessKeyId jwt bearer "
    "session sessionid credential authToken id_token refreshtoken userKey x-api-key private_key"
)
_PLAIN = (
    "se sp sv z x y layer style tilematrix tilekey tile_key quadkey monkey hotkey keyword version format sort_key "
    "pageSize token_type tokenUrl bbox author signal assign passage passes compass design expires"
)
SECRET_NAMES, PLAIN_NAMES = _SECRET.split(), _PLAIN.split()


@pytest.fixture(autouse=True)
def records() -> Iterator[None]:
    """Logging as it was, after tests that have guarded it."""
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


@given(TOKEN, st.sampled_from(SECRET_NAMES), st.sampled_from("?&;#"))
def test_query_values_that_are_secrets_go(token: str, name: str, sign: str) -> None:
    told = redact(f"GET https://host/a/b{sign}{name}=S{token}&y=2 answered 403")
    assert told == f"GET https://host/a/b{sign}{name}=***&y=2 answered 403"


@given(st.sampled_from(PLAIN_NAMES), st.sampled_from("?&;# "), st.text("abc0123", min_size=1))
def test_query_values_that_are_none_stay(name: str, sign: str, value: str) -> None:
    text = f"GET https://host/a/b{sign}{name}={value}&y=2 answered 403"
    assert redact(text) == text


def test_names_are_told_apart() -> None:
    assert [name for name in SECRET_NAMES if not is_secret_name(name)] == []
    assert [name for name in PLAIN_NAMES if is_secret_name(name)] == []
    assert [name for name in ("Cookie", "X-Api-Key", "Authorization", "X-Auth") if not is_secret_header(name)] == []
    assert [name for name in ("Accept", "user-agent", "Referer", "Origin", "X-Client") if is_secret_header(name)] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Authorization: Bearer abc was refused; try again", "Authorization: *** was refused; try again"),
        ("X-Api-Key: abc, Accept: image/png", "X-Api-Key: ***, Accept: image/png"),
        ("Cookie: a=bcd; e=fgh and more", "Cookie: *** and more"),
        ('{"token": "a b\\" c", "n": 1}', '{"token": "***", "n": 1}'),
        (r'"{\"apiKey\": \"abc\", \"b\": \"c\"}"', r'"{\"apiKey\": \"***\", \"b\": \"c\"}"'),
        ("{'Authorization': 'Basic abc'}", "{'Authorization': '***'}"),
        ('{"a": {"password": "x"}, "license": "CC-BY"}', '{"a": {"password": "***"}, "license": "CC-BY"}'),
        ("Job(token='abc', key='b')", "Job(token='***', key='b')"),
        ("the login Basic dXNlcjpwYXNz is bad", "the login Basic *** is bad"),
        ("a=1&amp;sig=abc&amp;b=2", "a=1&amp;sig=***&amp;b=2"),
        ("?access%5Ftoken=abc&x=1", "?access%5Ftoken=***&x=1"),
        ("(see http://h/?token=abc).", "(see http://h/?token=***)."),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln and AKIAIOSFODNN7EXAMPLE", "*** and ***"),
    ],
)
def test_headers_json_and_known_tokens_go(text: str, told: str) -> None:
    assert redact(text) == told


@pytest.mark.parametrize("password", ["Sword", "S@w@rd", "S:w:rd", "S/w/rd", "S/w@rd", "S@w/rd", "S%40w%2Frd", "S?w"])
@pytest.mark.parametrize("host", ["host.org/x", "host.org:8080/x", "localhost:1/x", "127.0.0.1:8080/x/3@2x.png"])
def test_logins_go(password: str, host: str) -> None:
    assert redact(f"at http://me:{password}@{host} it") == f"at http://***@{host} it"


@pytest.mark.parametrize(
    "text",
    [
        "imagery.token_env: the environment variable MY_TOKEN is not set; set it to the token",
        "no Mapbox token: set the environment variable MAPBOX_ACCESS_TOKEN, or make a Prefect Secret block",
        "the layer SCL: SCL_20m of key.2 has monkey=1, tilekey=7",
        "https://api.example:8080/tiles/3@2x.png answered 404",
        "http://[::1]:80/a@b: no such file",
        "Bearer token is missing; Basic authentication is needed",
        "2024-01-01T00:00:00Z: expected Content-Type: image/png",
        '{"license": "CC-BY-4.0", "key": "B04", "sort_key": "x"}',
        "set imagery.token_env=NAME, or splits.groups: {test: [a]}",
        "sorted(rows, key=len); session=3",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


@given(st.text(alphabet="abc /.:-?=0123456789", max_size=80))
def test_plain_text_stays(text: str) -> None:
    if "@" not in text:
        assert redact(text) == text


@given(st.text(max_size=200))
def test_what_was_redacted_stays_so(text: str) -> None:
    told = hide_by_name(text)
    assert hide_by_name(told) == told


@given(TOKEN)
def test_user_info_and_mapbox_tokens_go(token: str) -> None:
    assert redact(f"s3+http://me:S{token}@host/x") == "s3+http://***@host/x"
    assert token not in redact(f"the token pk.{token} is bad")


@given(ANY)
def test_a_remembered_value_goes_however_it_is_written(value: str) -> None:
    known = Remembered()
    known.add(value)
    value = value.strip()
    if value not in known:
        return
    written = [
        value,
        quote(value, safe=""),
        quote(value, safe="").lower() if value.islower() else value,
        quote_plus(value),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        html.escape(value),
        base64.b64encode(value.encode()).decode(),
    ]
    assert [known.hide(f"before {text}; after") for text in written[:-1]] == ["before ***; after"] * 7
    if len(value) >= 8:  # a shorter one is looked for as it is
        assert written[-1].rstrip("=") not in known.hide(f"Basic {written[-1]}")


def test_a_value_that_was_cut_off_goes_too() -> None:
    known = Remembered()
    known.add("marked-secret-0123456789")
    text = "the server said: marked-secret-0123456789"
    assert [known.hide(text[:end]) for end in (41, 40, 36)] == ["the server said: ***"] * 3


@pytest.mark.parametrize("value", ["", "abc", "test", "Admin", "----", "    "])
def test_what_is_no_secret_by_its_looks_is_not_remembered(value: str) -> None:
    remember(value)
    assert redact(f"split test {value} is empty") == f"split test {value} is empty"


def test_short_values_go_as_whole_words() -> None:
    remember("k3y9")
    assert redact("k3y9 of monk3y9 (k3y9)") == "*** of monk3y9 (***)"


def test_what_a_url_holds_is_remembered() -> None:
    remember_url("https://me:p%40ssw0rd@host/x?map_key=0123abcd&layer=visible0")
    for text in ("p@ssw0rd", "p%40ssw0rd", "0123abcd", base64.b64encode(b"me:p@ssw0rd").decode()):
        assert redact(f"a {text} b") == "a *** b"
    assert redact("visible0") == "visible0"


def test_what_the_environment_holds_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "AWS_SECRET_ACCESS_KEY": "aws-s3cret",
        "MLHUB_API_KEY": "mlhub-s3cret",
        "PREFECT_API_AUTH_STRING": "admin:prefect-s3cret",
        "MLFLOW_TRACKING_URI": "https://me:mlflow-s3cret@host/",
        "TILEWRIGHT_STAC_CDSE": "https://host/?api_key=stac-s3cret",
        "https_proxy": "me:proxy-s3cret@host:80",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/not/s3cret/itself",
        "AWS_DEFAULT_REGION": "eu-west-3",
        "MY_TOKEN": "nobody-asked",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    remember_environment()
    told = redact(" ".join(given.values()))
    assert "-s3cret" not in told
    for text in ("/not/s3cret/itself", "eu-west-3", "nobody-asked"):
        assert text in told


def test_values_are_redacted_at_every_depth() -> None:
    values = {"a": ["http://h/?token=SECRET", {"b": "x?key=SECRET"}], "n": 3}
    assert redact_values(values) == {"a": ["http://h/?token=***", {"b": "x?key=***"}], "n": 3}


def test_an_error_holds_no_secret() -> None:
    remember("s3cret-value")
    assert str(SourceError("the server said s3cret-value")) == "the server said ***"


def test_log_records_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    remember("s3cret-value")
    logger = logging.getLogger("somebody.else")
    logger.warning("GET %s", "/x/s3cret-value?sig=abc")
    try:
        try:
            raise OSError("https://me:pw@host/s3cret-value")
        except OSError as error:
            raise ValueError("of that") from error
    except ValueError:
        logger.exception("it failed: %s", {"k": "s3cret-value"})
    logger.warning("100%% plain %s", "words")
    assert [record.getMessage() for record in caplog.records[:2]] == ["GET /x/***?sig=***", "it failed: {'k': '***'}"]
    assert "s3cret" not in caplog.text
    assert "OSError: https://***@host/***" in caplog.text
    assert caplog.records[2].args == ("words",)


def test_logs_are_guarded_once() -> None:
    guard_logs()
    once = logging.getLogRecordFactory()
    guard_logs()
    assert logging.getLogRecordFactory() is once


def test_a_plain_exception_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    guard_logs()
    try:
        raise ValueError("plain")
    except ValueError:
        logging.getLogger("somebody.else").exception("it failed")
    assert caplog.records[0].exc_info is not None


def test_long_texts_take_time_in_proportion() -> None:
    """No text that a server sends may keep a message waiting."""
    remember("s3cret-value")
    for piece in ("a", "a-", "a:b@", "://", "http://a:b@", '"a":"', "?a=", "?a=)", "a=b&", "Cookie: a=b; ", "\\", "@/"):
        text = piece * (200_000 // len(piece))
        started = time.process_time()
        redact(text)
        assert time.process_time() - started < 5.0


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", " from the environment \n")
    assert find_secret("MY_SECRET", "no-such-block") == "from the environment"
    assert redact("it is from the environment.") == "it is ***."


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
    Secret(value=SecretStr("pk.from-a-block")).save("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    assert find_secret("MY_SECRET", "mapbox-access-token") == "pk.from-a-block"
    Secret.delete("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    assert find_secret("MY_SECRET", "mapbox-access-token") is None
