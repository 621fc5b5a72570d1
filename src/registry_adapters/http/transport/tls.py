"""TLS contexts per origin, TLS sockets, and the files of ``certs.d``.

A client certificate is a credential. It is sent to the registry, and to hosts with their own directory in
``certs_dir``; a redirect, token server or CDN on another origin never receives it.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.sockets import CancellableSocket
from registry_core.cancellation import checkpoint, on_cancel
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

__all__ = ["NO_FILES", "CancellableTLSSocket", "HostFiles", "SSLContexts", "host_files", "ssl_context", "tls_reason"]


class HostFiles(msgspec.Struct, frozen=True):
    """TLS files for one host.

    Args:
        authorities: PEM files with CA certificates to trust for this host.
        identity: Files of the client certificate and its key; ``None`` for no client certificate.
    """

    authorities: tuple[str, ...] = ()
    identity: tuple[str, str] | None = None


NO_FILES: Final = HostFiles()


def host_files(directory: str | None, origin: Origin) -> HostFiles:
    """Return the TLS files for an origin, as Docker and podman store them.

    The files are in ``<directory>/<host>:<port>``, or in ``<directory>/<host>`` for port 443. A directory without a
    port does not apply to other ports of the host.

    Args:
        directory: Directory with one directory for each host; ``None`` for none.
        origin: Origin of the connection.

    Raises:
        ConfigError: The directory cannot be read, a key is missing, or there is more than one client certificate.
    """
    if directory is None:
        return NO_FILES
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"certs_dir is not a directory: {directory!r}")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    names = [f"{host}:{origin.port}", *([host] if origin.port == 443 else [])]
    for host_directory in (root / name for name in names):
        if host_directory.is_dir():
            return _read_host_files(host_directory)
    return NO_FILES


def _read_host_files(host_directory: Path) -> HostFiles:
    try:
        files = sorted(path for path in host_directory.iterdir() if not path.is_dir())
    except OSError as error:
        raise ConfigError(f"certs_dir: cannot read directory {str(host_directory)!r}: {error.strerror}") from error
    for path in files:
        if path.suffix == ".cert" and not path.with_suffix(".key").exists():
            raise ConfigError(
                f"certs_dir: the key {path.with_suffix('.key').name} is missing for client certificate {str(path)!r}; "
                "the file of a CA must end in .crt"
            )
        if path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise ConfigError(
                f"certs_dir: the certificate {path.with_suffix('.cert').name} is missing for key {str(path)!r}"
            )
    identities = [path for path in files if path.suffix == ".cert"]
    if len(identities) > 1:
        raise ConfigError(f"certs_dir: more than one client certificate in {str(host_directory)!r}; keep one")
    return HostFiles(
        authorities=tuple(str(path) for path in files if path.suffix == ".crt"),
        identity=(str(identities[0]), str(identities[0].with_suffix(".key"))) if identities else None,
    )


_TLS_VERSIONS: Final = MappingProxyType({"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3})

_UNKNOWN_AUTHORITY: Final = (
    "certificate signed by unknown authority: "
    "add the CA with ca_file or certs_dir, or configure the server to send its intermediate certificates"
)

_WRONG_HOST: Final = "certificate is not valid for this host: use a host name in the certificate"

# Keys: OpenSSL verification error codes.
_VERIFICATION: Final = MappingProxyType(
    {
        2: _UNKNOWN_AUTHORITY,
        9: "certificate is not valid yet: check the clocks on both sides",
        10: "certificate has expired: renew it on the server, or check the clock of this machine",
        18: "certificate is self-signed: if it is the right one, add it with ca_file or certs_dir",
        19: _UNKNOWN_AUTHORITY,
        20: _UNKNOWN_AUTHORITY,
        21: _UNKNOWN_AUTHORITY,
        62: _WRONG_HOST,
        64: _WRONG_HOST,
    }
)

_NOT_TLS: Final = "the server does not speak TLS: for plain http, set plain_http"

_PROXY_NOT_TLS: Final = "the proxy does not speak TLS: write its URL with http://"

_NO_VERSION: Final = "no TLS version in common with the server: see tls_minimum"

_REJECTED_IDENTITY: Final = "the server rejected the client certificate: see client_cert and certs_dir"

# Keys: OpenSSL reason names; for alerts of the server, the part after ``ALERT_``.
_REASONS: Final = MappingProxyType(
    {
        "WRONG_VERSION_NUMBER": _NOT_TLS,
        "HTTP_REQUEST": _NOT_TLS,
        "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
        "RECORD_LAYER_FAILURE": _NOT_TLS,
        "UNSUPPORTED_PROTOCOL": _NO_VERSION,
        "PROTOCOL_VERSION": _NO_VERSION,
        "CERTIFICATE_REQUIRED": "the server requires a client certificate: set client_cert or certs_dir",
        "UNKNOWN_CA": "the server does not trust the CA of the client certificate: see client_cert and certs_dir",
        "CERTIFICATE_EXPIRED": "the client certificate has expired: see client_cert and certs_dir",
        "CERTIFICATE_REVOKED": "the client certificate is revoked: see client_cert and certs_dir",
        "BAD_CERTIFICATE": _REJECTED_IDENTITY,
        "UNSUPPORTED_CERTIFICATE": _REJECTED_IDENTITY,
        "CERTIFICATE_UNKNOWN": _REJECTED_IDENTITY,
        "ACCESS_DENIED": _REJECTED_IDENTITY,
        "DECRYPT_ERROR": _REJECTED_IDENTITY,
        "HANDSHAKE_FAILURE": "the server ended the handshake: it may require a client certificate (client_cert, "
        "certs_dir) or another cipher",
        "TLSV1_UNRECOGNIZED_NAME": "the server does not know this host name",
        "UNRECOGNIZED_NAME": "the server does not know this host name",
    }
)


class CancellableTLSSocket(CancellableSocket, ssl.SSLSocket):
    """A cancellable TLS socket, created by contexts whose ``sslsocket_class`` it is."""

    def do_handshake(self, block: bool = False) -> None:
        """Do the TLS handshake, within the timeout of the connection."""
        try:
            with on_cancel(self.interrupt):
                try:
                    super().do_handshake(block)
                except OSError:
                    checkpoint()
                    raise
            # Until the connection is open: over TLS to a proxy, CONNECT and a second handshake follow.
            self.idle_timeout = self.gettimeout() or self.idle_timeout
        except BaseException:
            # The base class closes the socket after an OSError only, and no other code has it yet.
            self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some bytes. Raise the error of a plain socket if the peer closed, so that its early response is read."""
        try:
            return super().send(data, flags)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection") from error


class SSLContexts:
    """TLS contexts by origin. Safe for many threads and for forked processes.

    A context is created on the first connection to its origin; files that change later are not read again.

    Args:
        settings: Settings with CA certificates, client certificate and TLS versions.
        registry: Origin of the registry, the only one that receives ``client_cert``.

    Raises:
        ConfigError: A file cannot be used, no CA is trusted, or there is a client certificate but no registry.
    """

    def __init__(self, settings: HttpSettings, registry: Origin | None = None) -> None:
        self._settings = settings
        self._registry = registry
        # No lock: a context created twice by a race is dropped, and a lock could stay locked after a fork.
        self._contexts: dict[tuple[HostFiles, bool], ssl.SSLContext] = {}
        self._files: dict[Origin, HostFiles] = {}
        if settings.client_cert is not None and registry is None:
            raise ConfigError("client_cert requires a registry: it is sent to that registry only")
        if settings.plain_http if registry is None else registry.scheme == "http":
            if settings.ca_file is not None or settings.client_cert is not None:
                ssl_context(settings)
            return
        files = NO_FILES if registry is None else self._files_of(registry)
        may_trust = settings.trust_system or settings.ca_file is not None or files.authorities
        if settings.tls_verify and not may_trust and (registry is not None or settings.certs_dir is None):
            raise ConfigError(
                "no CA is trusted: trust_system is off, and neither ca_file nor certs_dir has a CA for the registry"
            )
        self._context(files, is_registry=registry is not None)

    def of(self, origin: Origin) -> ssl.SSLContext:
        """Return the context for connections to an origin.

        Raises:
            ConfigError: A file for the origin cannot be used.
        """
        return self._context(self._files_of(origin), is_registry=origin == self._registry)

    def _files_of(self, origin: Origin) -> HostFiles:
        files = self._files.get(origin)
        if files is None:
            files = host_files(self._settings.certs_dir, origin)
            # Not cached for hosts without files: peers can name any number of hosts.
            if files != NO_FILES:
                self._files[origin] = files
        return files

    def _context(self, files: HostFiles, *, is_registry: bool) -> ssl.SSLContext:
        sends_client_cert = is_registry and self._settings.client_cert is not None
        context = self._contexts.get((files, sends_client_cert))
        if context is None:
            context = self._contexts.setdefault(
                (files, sends_client_cert), ssl_context(self._settings, files, is_registry=is_registry)
            )
        return context


def ssl_context(settings: HttpSettings, files: HostFiles = NO_FILES, *, is_registry: bool = True) -> ssl.SSLContext:
    """Create a TLS context.

    Args:
        settings: Settings with CA certificates, client certificate and TLS versions.
        files: TLS files of the host.
        is_registry: Whether the context is for the registry, which receives ``client_cert``.

    Raises:
        ConfigError: A file is missing or malformed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _TLS_VERSIONS[settings.tls_minimum]
    context.sslsocket_class = CancellableTLSSocket
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.trust_system:
        context.load_default_certs()
    if settings.ca_file is not None:
        _load_ca_file(context, "ca_file", settings.ca_file)
    for ca_file in files.authorities:
        _load_ca_file(context, "certs_dir", ca_file)
    if is_registry and settings.client_cert is not None:
        pair = settings.client_cert if isinstance(settings.client_cert, tuple) else (settings.client_cert, None)
        _load_client_certificate(context, "client_cert", *pair)
    elif files.identity is not None:
        _load_client_certificate(context, "certs_dir", *files.identity)
    return context


def tls_reason(causes: Collection[BaseException], *, is_proxy: bool = False) -> str:
    """Return the reason for a failed TLS connection, and the remedy if one is known.

    Args:
        causes: Exception and those that it wraps.
        is_proxy: Whether the connection was to a proxy, and not to the server.
    """
    reason = _tls_reason(causes)
    if not is_proxy:
        return reason
    return _PROXY_NOT_TLS if reason == _NOT_TLS else f"TLS with the proxy failed: {reason}"


def _tls_reason(causes: Collection[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            known = _VERIFICATION.get(cause.verify_code)
            return str(cause.verify_message) if known is None else f"{known} ({cause.verify_message.rstrip('.')})"
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and cause.reason:
            word = cause.reason.rpartition("ALERT_")[2]
            return _REASONS.get(word) or _REASONS.get(cause.reason) or cause.reason.replace("_", " ").lower()
    return "the TLS handshake failed"


def _load_ca_file(context: ssl.SSLContext, setting: str, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path!r} as a PEM file of certificates{_cause(error)}") from error


def _load_client_certificate(context: ssl.SSLContext, setting: str, certificate: str, key: str | None) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal if the key is encrypted.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        text = f"{setting}: cannot read {certificate!r} as a certificate with an unencrypted key{_cause(error)}"
        raise ConfigError(text) from error


def _cause(error: Exception) -> str:
    """The reason of the operating system; that of OpenSSL says less than the message before it."""
    is_openssl = isinstance(error, ssl.SSLError)
    return f": {error.strerror}" if isinstance(error, OSError) and error.strerror and not is_openssl else ""
