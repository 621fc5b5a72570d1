"""What containers of an image start with, and what its configuration says besides."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Final, Self

from registry_core.errors import InvalidValue
from registry_core.ops.build.config_draft import ConfigDraft
from registry_core.ops.build.moments import rfc3339

__all__ = ["Settings"]

_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")
_HIGHEST_PORT: Final = 65535


class Settings(ABC):
    """The methods that change a configuration. Each returns the object itself, so that calls can be chained.

    Args:
        inherited_cmd: Whether the configuration may have a command that came with somebody else's program.
    """

    def __init__(self, *, inherited_cmd: bool) -> None:
        self._inherited_cmd = inherited_cmd

    @property
    @abstractmethod
    def _config(self) -> ConfigDraft: ...

    def label(self, key: str, value: str | None) -> Self:
        """Set a label of the configuration; ``None`` removes it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        self._config.label(key, value)
        return self

    def env(self, name: str, value: str | None) -> Self:
        """Set a variable of the environment; ``None`` removes it.

        Raises:
            InvalidValue: The name is empty or has a ``=``, or the value is no text.
        """
        self._config.env(name, value)
        return self

    def entrypoint(self, *arguments: str) -> Self:
        """Set the program to run. A base's command goes, for it was meant for the base's program.

        Raises:
            InvalidValue: An argument is no text.
        """
        self.set_config("Entrypoint", list(arguments))
        if self._inherited_cmd:
            self.set_config("Cmd", None)
        return self

    def cmd(self, *arguments: str) -> Self:
        """Set the default arguments, or the program where there is no entrypoint.

        Raises:
            InvalidValue: An argument is no text.
        """
        return self.set_config("Cmd", list(arguments))

    def working_dir(self, path: str) -> Self:
        """Set the directory to start in.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("WorkingDir", path)

    def user(self, user: str) -> Self:
        """Set whom to run as: a user, by name or number, and perhaps a group behind a colon.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("User", user)

    def expose(self, *ports: int | str) -> Self:
        """Add ports that are listened on.

        Args:
            *ports: As ``8080`` or ``"53/udp"``; of TCP where nothing is said.

        Raises:
            InvalidValue: One is no port.
        """
        self._config.add_keys("ExposedPorts", [_port(port) for port in ports])
        return self

    def volume(self, *paths: str) -> Self:
        """Add directories whose content is not the image's.

        Raises:
            InvalidValue: One is no path.
        """
        for path in paths:
            if not isinstance(path, str) or not path:
                raise InvalidValue(f"not a path: {path!r:.200}")
        self._config.add_keys("Volumes", paths)
        return self

    def stop_signal(self, signal: str) -> Self:
        """Set what containers are stopped with, such as ``SIGINT``.

        Raises:
            InvalidValue: It is no text.
        """
        return self.set_config("StopSignal", signal)

    def healthcheck(
        self,
        *command: str,
        interval: float | None = None,
        timeout: float | None = None,
        start_period: float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set how to find out whether a container is well, as Docker does (image-spec config.md reserves the field).

        Args:
            *command: A program and its arguments, which ends with 0 if all is well; none at all switches off what the
                base checks.
            interval: How many seconds lie between two checks.
            timeout: How many seconds one may take.
            start_period: For how many seconds after the start nothing is held against it.
            retries: How many have to fail in a row.

        Raises:
            InvalidValue: Seconds or retries are negative.
        """
        check: dict[str, object] = {"Test": ["CMD", *command] if command else ["NONE"]}
        for key, seconds in (("Interval", interval), ("Timeout", timeout), ("StartPeriod", start_period)):
            if seconds is not None:
                if not 0 <= seconds < 1 << 31:
                    raise InvalidValue(f"not a time in seconds: {seconds!r:.50}")
                check[key] = round(seconds * 10**9)
        if retries is not None:
            if not isinstance(retries, int) or retries < 0:
                raise InvalidValue(f"not a number of retries: {retries!r:.50}")
            check["Retries"] = retries
        return self.set_config("Healthcheck", check)

    def set_config(self, key: str, value: object) -> Self:
        """Set any field of what containers start with, by its own name.

        Args:
            key: As image-spec config.md has it below ``config``.
            value: Whatever JSON it takes; ``None``, and what is empty, removes it.

        Raises:
            InvalidValue: The value is not JSON, or not of the kind that the field has.
        """
        self._config.set(key, value)
        if key == "Cmd":
            self._inherited_cmd = False
        return self

    def set_field(self, key: str, value: object) -> Self:
        """Set any other field of the configuration, such as ``author``.

        Args:
            key: As image-spec config.md has it.
            value: Whatever JSON it takes; ``None`` removes it.

        Raises:
            InvalidValue: It is one that has to agree with the layers, or has a method of its own, or the value is not
                JSON, or not of the kind that the field has.
        """
        self._config.set_top(key, value)
        return self

    def created(self, moment: str | int | datetime) -> Self:
        """Set when the image and its new layers were made.

        Args:
            moment: RFC 3339 text, which is kept as it is, a ``datetime`` with a time zone, or whole seconds since
                1970, as ``SOURCE_DATE_EPOCH`` has them.

        Raises:
            InvalidValue: It is none of these.
        """
        self._config.moment = rfc3339(moment)
        return self


def _port(port: int | str) -> str:
    found = _PORT.fullmatch(str(port))
    if found is None or not 0 < int(found[1]) <= _HIGHEST_PORT:
        raise InvalidValue(f"not a port: {port!r:.50}")
    return f"{int(found[1])}/{found[2] or 'tcp'}"
