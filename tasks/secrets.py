"""Tokens: where they come from, and how they are kept out of everything that is written."""

import os
import re
from typing import Any

_QUERY_SECRET = re.compile(
    r"(?i)([?&;](?:access_token|token|key|api[_-]?key|apikey|sig|signature|password|secret"
    r"|x-amz-(?:signature|credential|security-token))=)[^&\s'\"<>#]+"
)
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@")
_MAPBOX_TOKEN = re.compile(r"\b[pst]k\.[A-Za-z0-9_.-]{8,}")


def redact(text: str) -> str:
    """``text`` with every token-like query value, URL user info and Mapbox token replaced by ``***``."""
    text = _QUERY_SECRET.sub(r"\1***", text)
    text = _USERINFO.sub(r"\1***@", text)
    return _MAPBOX_TOKEN.sub("***", text)


def find_secret(env: str, block: str) -> str | None:
    """The secret in the environment variable ``env``, else in the Prefect Secret block ``block``, else None.

    The block is only looked up when a Prefect API is configured: a lookup must not start a server.
    """
    if value := os.environ.get(env, "").strip():
        return value
    if not os.environ.get("PREFECT_API_URL"):
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            return None
    from prefect.blocks.system import Secret

    try:
        loaded = Secret.load(block, _sync=True)  # type: ignore[call-arg]
    except ValueError:  # Prefect's answer for a block that does not exist
        return None
    return str(loaded.get()).strip() or None  # type: ignore[union-attr]


def redact_values(value: Any) -> Any:
    """``value`` with :func:`redact` applied to every string in its lists and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_values(inner) for inner in value]
    return value
