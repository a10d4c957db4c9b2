"""Whether an S3 server of the user's own answers at all, before Icechunk is let near it.

Icechunk 1 has no time limit of its own: a server that takes connections and never answers would keep it for ever. It
would also take a web page for a store of a newer format.
"""

import functools

from tasks.errors import StoreError
from tasks.secrets import redact
from tasks.web.client import Bounds, Client
from tasks.web.retry import RetryPolicy, TransientError

SECONDS = 30.0  # for one answer
ATTEMPTS = 2
_BYTES = 1_000_000  # of an answer: one key, or an error
_ADVICE = "check AWS_ENDPOINT_URL, or unset it for AWS itself"


@functools.cache
def see_that_it_answers(endpoint: str, bucket: str) -> None:
    """Ask for a listing of the bucket, unsigned: any answer will do that is no web page. Raises StoreError."""
    url = f"{endpoint.rstrip('/')}/{bucket}"
    policy = RetryPolicy(ATTEMPTS, ATTEMPTS * SECONDS, first_pause=0.5)
    with Client(policy, SECONDS, StoreError, _ADVICE, limits=Bounds(answer_bytes=_BYTES)) as client:
        query = {"list-type": "2", "max-keys": "1"}
        try:
            answer = client.persist(lambda: client.get(url, query=query, transient=()))
        except TransientError as error:
            raise StoreError(f"s3://{bucket}: {error}; {_ADVICE}") from None
    if "html" in answer.headers.get("Content-Type", "").lower():
        raise StoreError(
            f"s3://{bucket}: {redact(url)} answers with a web page, where an S3 server was expected; {_ADVICE}"
        )
