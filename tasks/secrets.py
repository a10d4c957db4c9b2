"""Secrets: where they come from, and how they are kept out of everything that is said or written.

A value that is known to be secret (from the environment, a Prefect block, a header, a login in a URL) is given to
:func:`remember`, and from then on :func:`redact` takes it out wherever it stands, whatever the text around it. What
nobody remembered is told by its name: values of queries, headers and JSON whose names are those of tokens.
"""

import base64
import functools
import html
import json
import logging
import math
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
SHORTEST = 4  # characters; what is shorter is no secret, and would be found everywhere
_WHOLE_BELOW = 8  # characters; what is shorter is taken out only where it is a whole word
_ENOUGH, _ENOUGH_LENGTH = 0.6, 12  # share or characters of a secret's start that go where a text was cut off in it
_NAME_LENGTH = 64  # characters

# Names are compared as words in lower case: accessToken, access-token and access_token are access, token.
_SECRET_WORD = re.compile(
    "apikey|appcode|appid|appkey|auth|authorization|bearer|cookie|credentials?|jwt|licen[cs]e|pass|passcode|passphrase"
    "|passwd|password|pat|pwd|sas|secret|session|sessionid|sig|sign|signature|tk|token"
)
_SECRET_ENDS = re.compile(  # of the words written as one
    "(?:token|secret|password|passwd|pwd|passphrase|signature|credentials?|oauth|jwt|apikey|accesskeyid|appid|sessionid"
    "|(?:access|account|admin|app|auth|client|consumer|developer|dev|licen[cs]e|maps?|master|my|private|project|sas"
    "|secret|server|service|shared|signing|site|subscription|user)key)$"
)
_HARMLESS_KEY = re.compile(  # the word before key
    "asset|band|cache|class|foreign|group|item|join|layer|object|partition|primary|quad|routing|sort|tile"
)
_ABOUT = re.compile(  # a last word that says that the value is something about a secret
    "algorithm|count|date|envs?|expiration|expires|expiry|file|format|length|lifetime|limit|mode|names?|path|scheme"
    "|scope|size|timeout|ttl|type|uri|url|version"
)
_AMBIGUOUS = re.compile("keys?|licen[cs]e|pass|pat|sas|session|sign", re.IGNORECASE)  # but in a query
_HARMLESS_HEADER = re.compile(
    "accept(?:-charset|-encoding|-language)?|cache-control|connection|content-type|dnt|from|host|origin|pragma|range"
    "|referer|user-agent",
    re.IGNORECASE,
)

_QUERY = re.compile(
    rf"""([?&;#]|&amp;)([\w.%\[\]-]{{1,{_NAME_LENGTH}}})=([^&\s'"<>#]+?)(?=[;,.:)\]]*(?:\s|\\|$)|[&'"<>#])"""
)
_PAIR = re.compile(rf"""(?<![\w.?&;#%/-])([A-Za-z][\w-]{{1,{_NAME_LENGTH}}})=(["']?)([^\s"'&,;)<>{{]+)""")
_QUOTED = re.compile(
    rf"""(\\*["'])([A-Za-z][\w-]{{0,{_NAME_LENGTH}}})\1(\s*:\s*)(\\*["'])(.+?)(?:(?<!\\)\4|$)""", re.DOTALL
)
_HEADER = re.compile(
    rf"(?i)(?<![\w.-])(authorization|(?:set-)?cookie|apikey|[a-z][a-z0-9]*(?:-[a-z0-9]{{1,{_NAME_LENGTH}}})+)"
    r"(\s*:\s*)(?!\s|//)((?:(?:basic|bearer|digest|token|apikey)\s+)?[^\s,;\"']+(?:;\s*[^\s;=]+=[^\s;]+)*)"
)
_SCHEME = re.compile(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC)(\s+)(?![a-z]+\b|[A-Z][a-z]+\b)[\w.~+/=-]{8,}")
_KNOWN = re.compile(r"\b(?:[pst]k\.[A-Za-z0-9_.-]{8,}|eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?|(?:AKIA|ASIA)[A-Z0-9]{16}\b)")
_AFTER_SCHEME = re.compile(r"(?<=://)[^\s\"'<>]+?(?=://|[\s\"'<>]|$)")
_HOST = re.compile(r"(?:localhost|[\w-]+(?:\.[\w-]+)+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:[/?#]|$)|[\w-]+:\d+(?:[/?#]|$)")


class Remembered:
    """The secret values of a process, in all the ways in which they are written. Any thread may add and ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: frozenset[str] = frozenset()
        self._written: tuple[str, ...] = ()  # the longest first: one may hold another

    def add(self, value: str) -> None:
        """Take ``value`` out of every text from now on.

        What is no secret by its looks is not taken: under 4 characters, and words of under 8 such as ``test``.
        """
        value = value.strip()
        word = value.isalpha() and (value.islower() or value.isupper() or value.istitle())
        if len(value) < SHORTEST or (word and len(value) < _WHOLE_BELOW) or not re.search(r"\w", value):
            return
        with self._lock:
            if value not in self._values:
                self._values |= {value}
                written = {*self._written, *_writings(value)}
                self._written = tuple(sorted(written, key=lambda text: (-len(text), text)))

    def __contains__(self, value: str) -> bool:
        return value in self._values

    def hide(self, text: str) -> str:
        """``text`` without these values, and without what is left of one where the text was cut off in it."""
        known = self._written
        for written in known:
            if written not in text:
                continue
            if len(written) < _WHOLE_BELOW:
                text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(written)}(?![A-Za-z0-9])", HIDDEN, text)
            else:
                text = text.replace(written, HIDDEN)
        for written in known:
            start = written[: max(_WHOLE_BELOW, min(_ENOUGH_LENGTH, math.ceil(_ENOUGH * len(written))))]
            while len(start) >= _WHOLE_BELOW and (at := text.find(start)) >= 0:
                end = at + len(start)
                while text[end : end + 1] == written[end - at]:
                    end += 1
                text = text[:at] + HIDDEN + text[end:]
        return text


def _writings(value: str) -> Iterator[str]:
    """A value as texts hold it: itself, in URLs, in JSON and Python, in HTML, and as a login is sent."""
    raw = value.encode(errors="surrogateescape")  # as the environment has what is no UTF-8
    yield value
    for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield encoded
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), encoded)
    for quoted in (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)):
        yield quoted[1:-1]
    yield html.escape(value)
    if len(value) >= _WHOLE_BELOW:
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(raw).decode()
            yield from (encoded, encoded.rstrip("="))


REMEMBERED = Remembered()


def remember(value: str) -> None:
    """Know ``value`` as secret from now on: see :meth:`Remembered.add`. Log records are clean from the first on.

    Meant for values of which there are few; a signed URL of each of many files is told by the names in its query.
    """
    guard_logs()
    REMEMBERED.add(value)


def remember_login(user: str, password: str) -> None:
    """Know a password as secret, and the login as HTTP sends it."""
    remember(password)
    pair = f"{user}:{password}"
    if user and password in REMEMBERED:
        remember(pair)
        remember(base64.b64encode(pair.encode()).decode())


def remember_url(url: str) -> None:
    """Know as secret what a URL holds of that kind: its login, and values of its query by their names."""
    for rest in _AFTER_SCHEME.findall(url):
        user, sign, password = rest[: _login_end(rest)].partition(":")
        remember_login(unquote(user), unquote(password)) if sign else remember(unquote(user))
        for spelled in (user if not sign else "", password):
            remember(spelled)
    for match in _QUERY.finditer(url):
        if is_secret_name(match[2]):
            remember(unquote(match[3]))
            remember(match[3])


def remember_environment() -> None:
    """Know as secret what the environment holds for this program and for those that it drives."""
    for name, value in os.environ.items():
        if name.startswith(
            ("AWS_", "GDAL_HTTP_", "MAPBOX_", "MLFLOW_", "MLHUB_", "PC_SDK_", "PREFECT_", "TILEWRIGHT_")
        ):
            if is_secret_name(name) and name != "GDAL_HTTP_AUTH":  # which is basic, ntlm or the like
                remember(value)
            elif "://" in value:
                remember_url(value)
        elif name.upper().endswith("_PROXY"):
            remember_url(value if "://" in value else f"http://{value}")


def redact(text: str) -> str:
    """``text`` with every remembered value, and what looks like a secret by its name, replaced by ``***``."""
    return hide_by_name(REMEMBERED.hide(text))


def redact_values(value: Any, hide: Callable[[str], str] = redact) -> Any:
    """``value`` with ``hide`` applied to every string in its lists and mappings, keys too."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {redact_values(key, hide): redact_values(inner, hide) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner, hide) for inner in value]
    return value


def hide_by_name(text: str) -> str:
    """``text`` without values of queries, headers and JSON that are secret by their names, logins in URLs, and tokens
    that are known by their looks. It depends on nothing but ``text``."""
    if "://" in text:
        text = _AFTER_SCHEME.sub(lambda match: _without_login(match.group()), text)
    if "=" in text:
        text = _QUERY.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN if is_secret_name(m[2]) else m[3]}", text)
        text = _PAIR.sub(lambda m: f"{m[1]}={m[2]}{HIDDEN if _is_plainly_secret(m[1]) else m[3]}", text)
    if ":" in text:
        text = _QUOTED.sub(_without_quoted, text)
        text = _HEADER.sub(lambda m: f"{m[1]}{m[2]}{HIDDEN if _is_plainly_secret(m[1]) else m[3]}", text)
    return _KNOWN.sub(HIDDEN, _SCHEME.sub(rf"\1\2{HIDDEN}", text))


def _without_quoted(match: re.Match[str]) -> str:
    """A name and its value in JSON, in Python's words, or in JSON within a string."""
    opening, name, colon, quoted, value = match.groups()
    if _is_plainly_secret(name):
        return f"{opening}{name}{opening}{colon}{quoted}{HIDDEN}{quoted}"
    # The value may hold further pairs: it is looked at by itself.
    end = match.group()[match.end(5) - match.start() :]
    return f"{opening}{name}{opening}{colon}{quoted}{_QUOTED.sub(_without_quoted, value)}{end}"


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value of that name, in a query or an environment, is a token or password by it."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unquote(name))
    words = re.findall(r"[a-z0-9]+", spaced.lower())
    if not words or _ABOUT.fullmatch(words[-1]):
        return False
    if any(map(_SECRET_WORD.fullmatch, words)) or _SECRET_ENDS.search("".join(words)):
        return True
    return words[-1] in ("key", "keys") and (len(words) == 1 or not _HARMLESS_KEY.fullmatch(words[-2]))


def _is_plainly_secret(name: str) -> bool:
    """Whether it is one outside of a query too, where words are used more freely."""
    return not _AMBIGUOUS.fullmatch(name) and is_secret_name(name)


def is_harmless_header(name: str) -> bool:
    """Whether a header's value is no secret, whatever it is."""
    return _HARMLESS_HEADER.fullmatch(name.strip()) is not None


def is_secret_header(name: str) -> bool:
    """Whether a header's value is secret by its name."""
    return not is_harmless_header(name) and is_secret_name(name.strip())


def _login_end(rest: str) -> int:
    """Where the login ends in what follows ``://``: the index of its ``@``, 0 where there is none.

    Passwords may hold ``@`` and ``/`` although they should not: of several ``@`` the one before the host counts.
    """
    authority = re.match(r"[^/?#]*", rest).group()  # type: ignore[union-attr]
    signs = [match.start() for match in re.finditer("@", rest)]
    if not signs:
        return 0
    if "@" not in authority:
        # A path may hold @ (tiles@2x.png); a colon that no port follows says that this is no path yet.
        if not re.match(r"[^:@\[]*:(?!\d{0,5}$)", authority):
            return 0
        return next((at for at in signs if _HOST.match(rest, at + 1)), signs[-1])
    last = authority.rindex("@")
    if _HOST.match(rest, last + 1) or signs[-1] == last or ":" not in authority[:last]:
        return last
    return next((at for at in signs if at > last and _HOST.match(rest, at + 1)), last)


def _without_login(rest: str) -> str:
    end = _login_end(rest)
    return rest if not end or not re.search(r"[^:]", rest[:end]) else f"{HIDDEN}{rest[end:]}"


def find_secret(env: str, block: str = "") -> str | None:
    """The secret in the environment variable ``env``, else in the Prefect Secret block ``block``, else None.

    It is remembered. The block is only looked up when a Prefect API is configured: a lookup must not start a server.
    """
    value = os.environ.get(env, "").strip() or (_from_block(block) if block else "")
    remember(value)
    return value or None


def _from_block(block: str) -> str:
    if not os.environ.get("PREFECT_API_URL"):
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            return ""
    import httpx
    from prefect.blocks.system import Secret

    try:
        loaded = Secret.load(block, _sync=True)  # type: ignore[call-arg]
    except ValueError:  # Prefect's answer for a block that does not exist
        return ""
    except (httpx.HTTPError, RuntimeError) as error:  # what its client raises for a server that is down, or refuses
        logging.getLogger(__name__).warning("the Prefect Secret block %s was not read: %s", block, error)
        return ""
    return str(loaded.get()).strip()  # type: ignore[union-attr]


def guard_logs() -> None:
    """Keep secrets out of the messages and tracebacks of every log record that this process makes from now on."""
    before = logging.getLogRecordFactory()
    if not isinstance(before, _CleanRecords):
        logging.setLogRecordFactory(_CleanRecords(before))


class _CleanRecords:
    """Makes log records, whichever library's they are, of whose words no handler needs to be told."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's mistake in its own format
            message = f"{record.msg} {record.args}"
            record.msg, record.args = message, ()
        if (clean := redact(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:  # the chain of exceptions may hold URLs
            told = "".join(traceback.format_exception(record.exc_info[1]))
            if (clean := redact(told)) != told:
                record.exc_info, record.exc_text = None, clean.rstrip("\n")
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record
