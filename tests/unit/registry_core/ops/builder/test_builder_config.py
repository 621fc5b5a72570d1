"""What can be said about an image, and what cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from registry_core.domain import strict_json
from registry_core.errors import InvalidValue
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor


def config(builder: ImageBuilder | ImageEditor) -> dict[str, Any]:
    found: dict[str, Any] = strict_json.decode(builder.build().config().raw)["config"]
    return found


def builder() -> ImageBuilder:
    return ImageBuilder(platform="linux/amd64")


class TestFields:
    def test_ports_are_of_tcp_unless_they_say_otherwise(self) -> None:
        found = config(builder().expose(8080, "53/udp").expose("443"))

        assert found["ExposedPorts"] == {"443/tcp": {}, "53/udp": {}, "8080/tcp": {}}

    def test_volumes_are_a_set(self) -> None:
        assert config(builder().volume("/data", "/logs").volume("/data"))["Volumes"] == {"/data": {}, "/logs": {}}

    def test_those_of_a_base_stay(self) -> None:
        base = builder().expose(80).volume("/data").build()

        found = config(ImageBuilder(base=base).expose(443).volume("/more"))

        assert list(found["ExposedPorts"]) == ["80/tcp", "443/tcp"]
        assert list(found["Volumes"]) == ["/data", "/more"]

    def test_the_order_of_calls_does_not_matter(self) -> None:
        one = builder().expose(80).expose(81).volume("/a").volume("/b").build()
        other = builder().expose(81).expose(80).volume("/b", "/a").build()

        assert one.digest == other.digest

    def test_the_signal_to_stop_is_said(self) -> None:
        assert config(builder().stop_signal("SIGINT"))["StopSignal"] == "SIGINT"

    def test_health_is_checked_as_docker_does(self) -> None:
        found = config(builder().healthcheck("/bin/check", "-q", interval=1.5, timeout=30, start_period=0, retries=3))

        assert found["Healthcheck"] == {
            "Test": ["CMD", "/bin/check", "-q"],
            "Interval": 1_500_000_000,
            "Timeout": 30_000_000_000,
            "StartPeriod": 0,
            "Retries": 3,
        }

    def test_health_is_not_checked_any_more(self) -> None:
        assert config(builder().healthcheck("true").healthcheck())["Healthcheck"] == {"Test": ["NONE"]}

    @pytest.mark.parametrize("empty", [None, "", [], (), {}])
    def test_what_is_empty_is_removed(self, empty: object) -> None:
        assert "Cmd" not in config(builder().cmd("a").set_config("Cmd", empty))

    def test_a_command_that_was_set_in_any_way_outlives_a_new_entrypoint(self) -> None:
        base = builder().cmd("old").build()

        found = config(ImageEditor(base).set_config("Cmd", ["new"]).entrypoint("/run"))

        assert (found["Cmd"], found["Entrypoint"]) == (["new"], ["/run"])


class TestNonsense:
    """Whoever reads the image would not understand it: it is refused where it is said."""

    @pytest.mark.parametrize(
        "say",
        [
            lambda to: to.user(1000),
            lambda to: to.working_dir(1),
            lambda to: to.cmd("a", 1),
            lambda to: to.entrypoint(None),
            lambda to: to.stop_signal(9),
            lambda to: to.label("key", 1),
            lambda to: to.label("", "value"),
            lambda to: to.env("NAME", 1),
            lambda to: to.env(1, "value"),
            lambda to: to.annotate("key", 1),
            lambda to: to.annotate("", "value"),
            lambda to: to.expose(0),
            lambda to: to.expose(65536),
            lambda to: to.expose("http"),
            lambda to: to.expose("80/icmp"),
            lambda to: to.volume(""),
            lambda to: to.healthcheck("a", interval=-1),
            lambda to: to.healthcheck("a", interval=float("nan")),
            lambda to: to.healthcheck("a", retries=-1),
            lambda to: to.set_config("Env", ["A=1", 2]),
            lambda to: to.set_config("", "value"),
            lambda to: to.set_config("X", object()),
            lambda to: to.set_config("X", float("inf")),
            lambda to: to.set_config("X", "\ud800"),
            lambda to: to.set_field("author", 1),
            lambda to: to.set_field("rootfs", {}),
            lambda to: to.add_files({"a": b"1"}, compression=3),
            lambda to: to.add_files({"a": b"1"}, mtime="yesterday"),
        ],
    )
    def test_is_refused_and_changes_nothing(self, say: Callable[[Any], object]) -> None:
        image = builder().label("a", "b").cmd("c").build()
        editor = ImageEditor(image)

        with pytest.raises(InvalidValue):
            say(editor)

        assert editor.build().digest == image.digest
