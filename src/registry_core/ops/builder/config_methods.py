"""The methods of builders that change the image configuration (image-spec config.md)."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Self, overload

from registry_core.errors import InvalidValue
from registry_core.ops.builder.config import ConfigEditor, to_rfc3339

__all__ = ["ConfigMethods"]


_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")

_MAX_PORT: Final = 65535


class ConfigMethods(ABC):
    """Methods that change the image configuration. Each returns the object itself, so calls can be chained.

    Args:
        inherited_cmd: Whether the configuration may have a ``Cmd`` that belongs to the entrypoint of a base image.
    """

    def __init__(self, *, inherited_cmd: bool) -> None:
        self._inherited_cmd = inherited_cmd

    @property
    @abstractmethod
    def _config(self) -> ConfigEditor: ...

    def label(self, key: str, value: str | None) -> Self:
        """Set a label; ``None`` removes it.

        Raises:
            InvalidValue: The key or the value is not a string, or the key is empty.
        """
        self._config.label(key, value)
        return self

    def env(self, name: str, value: str | None) -> Self:
        """Set an environment variable; ``None`` removes it. A variable that is set anew keeps its place in the list.

        Raises:
            InvalidValue: The name is empty or contains ``=``, or the value is not a string.
        """
        self._config.env(name, value)
        return self

    @overload
    def entrypoint(self, *arguments: str) -> Self: ...
    @overload
    def entrypoint(self, arguments: Sequence[str], /) -> Self: ...
    def entrypoint(self, *arguments: str | Sequence[str]) -> Self:
        """Set the program to run, and remove the inherited command, which belongs to the entrypoint of the base.

        Args:
            *arguments: Program and arguments, as strings or as one list of strings; none removes the entrypoint.

        Raises:
            InvalidValue: An argument is not a string, or a list is combined with more arguments.
        """
        self.set_config("Entrypoint", _arguments("entrypoint", arguments))
        if self._inherited_cmd:
            self.set_config("Cmd", None)
        return self

    @overload
    def cmd(self, *arguments: str) -> Self: ...
    @overload
    def cmd(self, arguments: Sequence[str], /) -> Self: ...
    def cmd(self, *arguments: str | Sequence[str]) -> Self:
        """Set the default arguments of the entrypoint, or the program to run if there is no entrypoint.

        Args:
            *arguments: Arguments, as strings or as one list of strings; none removes the command.

        Raises:
            InvalidValue: An argument is not a string, or a list is combined with more arguments.
        """
        return self.set_config("Cmd", _arguments("cmd", arguments))

    def working_dir(self, path: str | os.PathLike[str]) -> Self:
        """Set the working directory.

        Raises:
            InvalidValue: The path is not a string or path.
        """
        return self.set_config("WorkingDir", os.fspath(path) if isinstance(path, os.PathLike) else path)

    def user(self, user: str) -> Self:
        """Set the user to run as, as ``user``, ``uid``, ``user:group`` or ``uid:gid``.

        Raises:
            InvalidValue: The user is not a string.
        """
        return self.set_config("User", user)

    def expose(self, *ports: int | str) -> Self:
        """Add ports to ``ExposedPorts``.

        Args:
            *ports: Ports such as ``8080`` or ``"53/udp"``; the protocol is TCP if omitted.

        Raises:
            InvalidValue: A value is not a port.
        """
        self._config.add_keys("ExposedPorts", [_port(port) for port in ports])
        return self

    def volume(self, *paths: str | os.PathLike[str]) -> Self:
        """Add directories to ``Volumes``.

        Raises:
            InvalidValue: A value is not a path.
        """
        texts = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]
        for path in texts:
            if not isinstance(path, str) or not path:
                raise InvalidValue(f"volume: not a path: {path!r:.200}")
        self._config.add_keys("Volumes", texts)
        return self

    def stop_signal(self, signal: str) -> Self:
        """Set the signal that stops the container, such as ``SIGINT``.

        Raises:
            InvalidValue: The signal is not a string.
        """
        return self.set_config("StopSignal", signal)

    @overload
    def healthcheck(
        self,
        *command: str,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self: ...
    @overload
    def healthcheck(
        self,
        command: Sequence[str],
        /,
        *,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self: ...
    def healthcheck(
        self,
        *command: str | Sequence[str],
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set the health check, in the format of Docker (image-spec config.md reserves the field).

        Args:
            *command: Program and arguments, as strings or as one list of strings; exit code 0 means healthy. Without
                arguments, the health check of the base is disabled.
            interval: Seconds between checks.
            timeout: Seconds that one check may take.
            start_period: Seconds after the start during which failures do not count.
            retries: Number of consecutive failures that make the container unhealthy.

        Raises:
            InvalidValue: An argument is not a string, or a number is negative or too large.
        """
        arguments = _arguments("healthcheck", command)
        check: dict[str, object] = {"Test": ["CMD", *arguments] if arguments else ["NONE"]}
        for key, seconds in (("Interval", interval), ("Timeout", timeout), ("StartPeriod", start_period)):
            if seconds is not None:
                if not 0 <= seconds < 1 << 31:
                    raise InvalidValue(f"healthcheck: not a number of seconds: {seconds!r:.50}")
                check[key] = round(seconds * 10**9)
        if retries is not None:
            if not isinstance(retries, int) or retries < 0:
                raise InvalidValue(f"healthcheck: not a number of retries: {retries!r:.50}")
            check["Retries"] = retries
        return self.set_config("Healthcheck", check)

    def set_config(self, key: str, value: object) -> Self:
        """Set any field of the object ``config`` in the image configuration.

        Args:
            key: Name of the field in image-spec config.md, such as ``"StopSignal"``.
            value: JSON value; ``None`` and empty values remove the field.

        Raises:
            InvalidValue: The value is not JSON, or not of the type that the field has.
        """
        self._config.set_config(key, value)
        if key == "Cmd":
            self._inherited_cmd = False
        return self

    def set_field(self, key: str, value: object) -> Self:
        """Set any other field of the image configuration, such as ``author``.

        Args:
            key: Name of the field in image-spec config.md.
            value: JSON value; ``None`` removes the field.

        Raises:
            InvalidValue: The field must agree with the layers or has its own method, the value is not JSON, or it is
                not of the type that the field has.
        """
        self._config.set_field(key, value)
        return self

    def created(self, time: str | int | datetime) -> Self:
        """Set the creation time of the image and of its new layers.

        Args:
            time: A ``datetime`` with a time zone, RFC 3339 text, or whole seconds since 1970, such as the number in
                ``SOURCE_DATE_EPOCH``. It is written with ``T``, and with ``Z`` or an offset ``±hh:mm``, as all readers
                accept it; a text in this form is kept unchanged.

        Raises:
            InvalidValue: The time has none of these forms.
        """
        self._config.created = to_rfc3339(time)
        return self


def _arguments(method: str, arguments: tuple[str | Sequence[str], ...]) -> list[str]:
    """The arguments of a command, given as strings or as one list of strings."""
    given: Sequence[object] = arguments
    if len(arguments) == 1 and _is_list(arguments[0]):
        given = arguments[0]
    strings = [argument for argument in given if isinstance(argument, str)]
    if len(strings) != len(given):
        if any(_is_list(argument) for argument in given):
            raise InvalidValue(f"{method}: pass either strings or one list of strings, not a list among others")
        wrong = next(argument for argument in given if not isinstance(argument, str))
        raise InvalidValue(f"{method}: not a string: {wrong!r:.200}")
    return strings


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _port(port: int | str) -> str:
    match = _PORT.fullmatch(str(port))
    if match is None or not 0 < int(match[1]) <= _MAX_PORT:
        raise InvalidValue(f"expose: not a port: {port!r:.50}")
    return f"{int(match[1])}/{match[2] or 'tcp'}"
