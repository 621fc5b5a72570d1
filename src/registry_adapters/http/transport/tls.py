"""Whom to trust, and who we are: TLS contexts, one for each origin that has its own, and the sockets that they make.

A client certificate is a credential: it is shown to the registry itself, and to hosts that have files of their own.
No redirect, token server or CDN on another origin ever sees it.

Files of authorities and identities for single hosts, kept as Docker and podman keep them (``certs.d``).
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

__all__ = ["NO_FILES", "GuardedTLSSocket", "HostFiles", "SSLContexts", "host_files", "ssl_context", "tls_reason"]


class HostFiles(msgspec.Struct, frozen=True):
    """What there is for one host.

    Args:
        authorities: PEM files of further authorities to trust there.
        identity: Who we are there: a file with a certificate and one with its key; ``None`` for nobody.
    """

    authorities: tuple[str, ...] = ()
    identity: tuple[str, str] | None = None


NO_FILES: Final = HostFiles()


def host_files(directory: str | None, origin: Origin) -> HostFiles:
    """The files for an origin: those in ``<directory>/<host>:<port>``, or ``<directory>/<host>`` for port 443.

    Nothing is inherited: a directory for a host without a port says nothing about the host's other ports.

    Args:
        directory: Where the hosts' directories are; ``None`` for nowhere.
        origin: Whose files are wanted.

    Raises:
        ConfigError: The directory cannot be read, a key is missing, or it is not clear who we are.
    """
    if directory is None:
        return NO_FILES
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"certs_dir is no directory: {directory!r}")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    names = [f"{host}:{origin.port}", *([host] if origin.port == 443 else [])]
    for place in (root / name for name in names):
        if place.is_dir():
            return _read(place)
    return NO_FILES


def _read(place: Path) -> HostFiles:
    try:
        files = sorted(path for path in place.iterdir() if not path.is_dir())
    except OSError as error:
        raise ConfigError(f"certs_dir has a directory that cannot be read: {str(place)!r}") from error
    for path in files:
        if path.suffix == ".cert" and not path.with_suffix(".key").exists():
            raise ConfigError(
                f"a certificate without its key, {path.with_suffix('.key').name}: {str(path)!r}; "
                "one of an authority ends in .crt"
            )
        if path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise ConfigError(f"a key without its certificate, {path.with_suffix('.cert').name}: {str(path)!r}")
    identities = [path for path in files if path.suffix == ".cert"]
    if len(identities) > 1:
        raise ConfigError(f"more than one client certificate for a host: {str(place)!r}")
    return HostFiles(
        authorities=tuple(str(path) for path in files if path.suffix == ".crt"),
        identity=(str(identities[0]), str(identities[0].with_suffix(".key"))) if identities else None,
    )


_MINIMUM: Final = MappingProxyType({"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3})

_UNKNOWN_AUTHORITY: Final = (
    "certificate signed by unknown authority: "
    "add the CA with ca_file or certs_dir, or configure the server to send its intermediate certificates"
)

_OTHER_NAME: Final = "certificate is not valid for this host: use a host name in the certificate"

# By OpenSSL's number of the error.
_VERIFICATION: Final = MappingProxyType(
    {
        2: _UNKNOWN_AUTHORITY,
        9: "certificate is not valid yet: check the clocks on both sides",
        10: "certificate has expired: renew it on the server, or check the clock of this machine",
        18: "certificate is self-signed: if it is the right one, add it with ca_file or certs_dir",
        19: _UNKNOWN_AUTHORITY,
        20: _UNKNOWN_AUTHORITY,
        21: _UNKNOWN_AUTHORITY,
        62: _OTHER_NAME,
        64: _OTHER_NAME,
    }
)

_PLAIN: Final = "the server does not speak TLS: for plain http, set plain_http"

_NO_VERSION: Final = "no TLS version in common with the server: see tls_minimum"

_OTHER_IDENTITY: Final = "the server rejected the client certificate: see client_cert and certs_dir"

# By OpenSSL's word for the reason; of an alert, what comes after ``ALERT_``: that is what the server complains about.
_REASONS: Final = MappingProxyType(
    {
        "WRONG_VERSION_NUMBER": _PLAIN,
        "HTTP_REQUEST": _PLAIN,
        "PACKET_LENGTH_TOO_LONG": _PLAIN,
        "RECORD_LAYER_FAILURE": _PLAIN,
        "UNSUPPORTED_PROTOCOL": _NO_VERSION,
        "PROTOCOL_VERSION": _NO_VERSION,
        "CERTIFICATE_REQUIRED": "the server requires a client certificate: set client_cert or certs_dir",
        "UNKNOWN_CA": "the server does not trust the CA of the client certificate: see client_cert and certs_dir",
        "CERTIFICATE_EXPIRED": "the client certificate has expired: see client_cert and certs_dir",
        "CERTIFICATE_REVOKED": "the client certificate is revoked: see client_cert and certs_dir",
        "BAD_CERTIFICATE": _OTHER_IDENTITY,
        "UNSUPPORTED_CERTIFICATE": _OTHER_IDENTITY,
        "CERTIFICATE_UNKNOWN": _OTHER_IDENTITY,
        "ACCESS_DENIED": _OTHER_IDENTITY,
        "DECRYPT_ERROR": _OTHER_IDENTITY,
        "HANDSHAKE_FAILURE": "the server ended the handshake: it may require a client certificate (client_cert, "
        "certs_dir) or another cipher",
        "TLSV1_UNRECOGNIZED_NAME": "the server does not know this host name",
        "UNRECOGNIZED_NAME": "the server does not know this host name",
    }
)


class GuardedTLSSocket(CancellableSocket, ssl.SSLSocket):
    """A TLS socket; made by a context whose ``sslsocket_class`` it is."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, for no longer than the timeout that the connection was opened with."""
        try:
            with on_cancel(self.interrupt):
                try:
                    super().do_handshake(block)
                except OSError:
                    checkpoint()
                    raise
        except BaseException:
            # The base closes what fails by an OSError; nobody else has this socket yet.
            self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some bytes, and fail as a plain socket does: then an answer that came too early is read."""
        try:
            return super().send(data, flags)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection") from error


class SSLContexts:
    """TLS contexts by origin; safe for many threads and for processes that fork.

    Each is made once, when its origin is first gone to; files that change later are not read again.

    Args:
        settings: Whom to trust, and who we are.
        home: The registry: the only one to whom ``client_cert`` is shown.

    Raises:
        ConfigError: A file cannot be used, nobody at all is trusted, or a client certificate has no registry.
    """

    def __init__(self, settings: HttpSettings, home: Origin | None = None) -> None:
        self._settings = settings
        self._home = home
        # No lock: what is made twice by a race is dropped, and a lock might be held by nobody after a fork.
        self._made: dict[tuple[HostFiles, bool], ssl.SSLContext] = {}
        self._files: dict[Origin, HostFiles] = {}
        if settings.client_cert is not None and home is None:
            raise ConfigError("client_cert is shown to one registry only, and it is not said to which")
        if settings.plain_http if home is None else home.scheme == "http":
            if settings.ca_file is not None or settings.client_cert is not None:
                ssl_context(settings)
            return
        files = NO_FILES if home is None else self._files_of(home)
        may_trust = settings.trust_system or settings.ca_file is not None or files.authorities
        if settings.tls_verify and not may_trust and (home is not None or settings.certs_dir is None):
            raise ConfigError(
                "trust_system is off, and neither ca_file nor certs_dir names an authority for the registry: "
                "nobody would be trusted"
            )
        self._context(files, is_home=home is not None)

    def of(self, origin: Origin) -> ssl.SSLContext:
        """The context for connections to an origin.

        Raises:
            ConfigError: The files for it cannot be used.
        """
        return self._context(self._files_of(origin), is_home=origin == self._home)

    def _files_of(self, origin: Origin) -> HostFiles:
        files = self._files.get(origin)
        if files is None:
            files = host_files(self._settings.certs_dir, origin)
            # Of hosts without files there may be any number: peers name them.
            if files != NO_FILES:
                self._files[origin] = files
        return files

    def _context(self, files: HostFiles, *, is_home: bool) -> ssl.SSLContext:
        shown = is_home and self._settings.client_cert is not None
        made = self._made.get((files, shown))
        if made is None:
            made = self._made.setdefault((files, shown), ssl_context(self._settings, files, is_home=is_home))
        return made


def ssl_context(settings: HttpSettings, files: HostFiles = NO_FILES, *, is_home: bool = True) -> ssl.SSLContext:
    """A context as the settings ask for.

    Args:
        settings: Whom to trust, and which TLS versions to speak.
        files: What there is for the host alone.
        is_home: Whether it is for the registry itself, which is shown ``client_cert``.

    Raises:
        ConfigError: A file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _MINIMUM[settings.tls_minimum]
    context.sslsocket_class = GuardedTLSSocket
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.trust_system:
        context.load_default_certs()
    if settings.ca_file is not None:
        _trust(context, "ca_file", settings.ca_file)
    for authority in files.authorities:
        _trust(context, "certs_dir", authority)
    if is_home and settings.client_cert is not None:
        pair = settings.client_cert if isinstance(settings.client_cert, tuple) else (settings.client_cert, None)
        _load_client_certificate(context, "client_cert", *pair)
    elif files.identity is not None:
        _load_client_certificate(context, "certs_dir", *files.identity)
    return context


def tls_reason(causes: Collection[BaseException]) -> str:
    """Why there is no trustworthy connection, and what can be done."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            known = _VERIFICATION.get(cause.verify_code)
            return str(cause.verify_message) if known is None else f"{known} ({cause.verify_message.rstrip('.')})"
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and cause.reason:
            word = cause.reason.rpartition("ALERT_")[2]
            return _REASONS.get(word) or _REASONS.get(cause.reason) or cause.reason.replace("_", " ").lower()
    return "the TLS handshake failed"


def _trust(context: ssl.SSLContext, setting: str, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise ConfigError(f"{setting} is no readable PEM file of certificates: {path!r}") from error


def _load_client_certificate(context: ssl.SSLContext, setting: str, certificate: str, key: str | None) -> None:
    try:
        # An encrypted key would otherwise be asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{setting} is no readable pair of certificate and unencrypted key: {certificate!r}"
        ) from error
