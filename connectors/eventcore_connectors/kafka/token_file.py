"""The OAUTHBEARER token that stands in a file."""

from __future__ import annotations

from pathlib import Path

#: A token is a few kilobytes; what is larger is another file.
_TOKEN_BYTES_MAX = 64 * 1024


class UnusableSecurity(Exception):
    """A certificate, key or token can't be used; the message names the file."""


def read_token(path: Path) -> str:
    """Return the token.

    Raises:
        UnusableSecurity: the file can't be read, is empty, or is no token.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_TOKEN_BYTES_MAX + 1)
        text = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableSecurity(f"sasl_oauth_token_file can't be read: {path} ({error})") from error
    if not text or len(data) > _TOKEN_BYTES_MAX or len(text.split()) > 1:
        raise UnusableSecurity(f"sasl_oauth_token_file holds no token: {path}")
    return text
