"""What is said when there is no TLS connection."""

import ssl

TLS_ADVICE = (
    "if the server is yours, name the file of its certificate authority in the environment variable REQUESTS_CA_BUNDLE"
    " (SSL_CERT_FILE for tiles)"
)
# A connection that ended in the midst, which another attempt may not meet.
_PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ssl.SSLWantReadError)


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may do better."""
    return isinstance(error, _PASSING)


def tls_reason(error: ssl.SSLError) -> str:
    """Why there is no connection, such as ``TLS failed: self-signed certificate``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message or "the certificate is not valid"
        return f"TLS failed: {said.rstrip('.')}"
    return f"TLS failed: {(error.reason or error.strerror or type(error).__name__).replace('_', ' ').lower()}"
