"""Load the certificates that servers are verified with, and name the variable that is at fault."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx

from worker.errors import ConfigurationError

_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # the only names that OpenSSL finds in a folder


def tls_context() -> ssl.SSLContext:
    """Return a context with the certificates of `SSL_CERT_FILE` or `SSL_CERT_DIR`, else certifi's.

    Raises `ConfigurationError` where the variable leads to no certificates.
    """
    if os.environ.get("SSL_CERT_FILE"):
        require_file("SSL_CERT_FILE")
    elif os.environ.get("SSL_CERT_DIR"):
        require_folder("SSL_CERT_DIR")
    return httpx.create_ssl_context()


def require_file(variable: str) -> None:
    """Raise `ConfigurationError` unless this variable names a file of certificates."""
    name = os.environ[variable]
    if Path(name).is_dir():
        raise _unusable(variable, "is a folder, not a file")
    try:
        ssl.create_default_context(cafile=name)
    except ssl.SSLError:
        raise _unusable(variable, "has no readable certificates in PEM format") from None
    except (OSError, ValueError) as error:
        raise _unusable(variable, f"cannot be read: {_words(error)}") from None


def require_folder(variable: str) -> None:
    """Raise `ConfigurationError` unless this variable names a folder of certificates, or several.

    OpenSSL would not: it takes a missing folder for one without certificates.
    """
    try:
        found = any(_HASHED_NAME.fullmatch(name) for name in _files_in(os.environ[variable]))
    except (OSError, ValueError) as error:
        raise _unusable(variable, f"cannot be read: {_words(error)}") from None
    if not found:
        raise _unusable(variable, "has no certificates for OpenSSL (try `openssl rehash` on it)")


def _files_in(folders: str) -> Iterator[str]:
    """Yield the files of all folders of a list, which may have missing ones, but not only those."""
    existing = [name for name in folders.split(os.pathsep) if Path(name).exists()]
    for name in existing or [folders]:
        yield from os.listdir(name)


def _words(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unusable(variable: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        [f"{variable}={os.environ[variable]}: {problem}; correct the path, or unset the variable"]
    )
