"""Whom to trust, and who we are: one TLS context for all connections, and the sockets that it makes."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Collection
from typing import Any

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.sockets import Guard
from registry_core.errors import ConfigError
from registry_core.scope import checkpoint, interruptible

__all__ = ["GuardedTLSSocket", "ssl_context", "tls_reason"]


class GuardedTLSSocket(Guard, ssl.SSLSocket):
    """A TLS socket; made by a context whose ``sslsocket_class`` it is."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, for no longer than the timeout that the connection was opened with."""
        try:
            with interruptible(self.wake):
                try:
                    super().do_handshake(block)
                except OSError:
                    checkpoint()
                    raise
        except BaseException:
            # The base closes what fails by an OSError; nobody else has this socket yet.
            self.close()
            raise

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send some bytes, and fail as a plain socket does: then an answer that came too early is read (R-059)."""
        try:
            return super().send(data, flags)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection") from error


def ssl_context(settings: HttpSettings) -> ssl.SSLContext:
    """A context as the settings ask for: TLS 1.2 at least, the machine's authorities and those of ``ca_file``.

    Raises:
        ConfigError: A file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = GuardedTLSSocket
    if settings.tls_verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(cafile=settings.ca_file)
        except OSError as error:
            raise ConfigError(f"ca_file is no readable PEM file of certificates: {settings.ca_file!r}") from error
    if settings.client_cert is not None:
        certificate, key = (
            settings.client_cert if isinstance(settings.client_cert, tuple) else (settings.client_cert, None)
        )
        try:
            # An encrypted key would otherwise be asked for on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"client_cert is no readable pair of certificate and unencrypted key: {certificate!r}"
            ) from error
    return context


def tls_reason(causes: Collection[BaseException]) -> str:
    """Why there is no trustworthy connection."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and cause.reason:
            hint = "; does it speak plain http?" if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else ""
            return cause.reason.replace("_", " ").lower() + hint
    return "the TLS handshake failed"
