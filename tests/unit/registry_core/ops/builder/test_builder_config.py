"""Settings of the image configuration, and invalid ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import PurePosixPath
from typing import Any

import pytest

from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import CREATED
from registry_core.errors import InvalidValue
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.config import EPOCH_TEXT, ConfigEditor
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.index_builder import IndexBuilder


def config(builder: ImageBuilder | ImageEditor) -> dict[str, Any]:
    found: dict[str, Any] = strict_json.decode(builder.build().config().raw)["config"]
    return found


def builder() -> ImageBuilder:
    return ImageBuilder(platform="linux/amd64")


class TestFields:
    def test_the_default_protocol_of_ports_is_tcp(self) -> None:
        found = config(builder().expose(8080, "53/udp").expose("443"))

        assert found["ExposedPorts"] == {"443/tcp": {}, "53/udp": {}, "8080/tcp": {}}

    def test_volumes_are_a_set(self) -> None:
        assert config(builder().volume("/data", "/logs").volume("/data"))["Volumes"] == {"/data": {}, "/logs": {}}

    def test_ports_and_volumes_of_a_base_are_kept(self) -> None:
        base = builder().expose(80).volume("/data").build()

        found = config(ImageBuilder(base=base).expose(443).volume("/more"))

        assert list(found["ExposedPorts"]) == ["80/tcp", "443/tcp"]
        assert list(found["Volumes"]) == ["/data", "/more"]

    def test_the_order_of_calls_does_not_matter(self) -> None:
        one = builder().expose(80).expose(81).volume("/a").volume("/b").build()
        other = builder().expose(81).expose(80).volume("/b", "/a").build()

        assert one.digest == other.digest

    def test_the_stop_signal_is_set(self) -> None:
        assert config(builder().stop_signal("SIGINT"))["StopSignal"] == "SIGINT"

    def test_the_health_check_has_the_format_of_docker(self) -> None:
        found = config(builder().healthcheck("/bin/check", "-q", interval=1.5, timeout=30, start_period=0, retries=3))

        assert found["Healthcheck"] == {
            "Test": ["CMD", "/bin/check", "-q"],
            "Interval": 1_500_000_000,
            "Timeout": 30_000_000_000,
            "StartPeriod": 0,
            "Retries": 3,
        }

    def test_the_health_check_can_be_disabled(self) -> None:
        assert config(builder().healthcheck("true").healthcheck())["Healthcheck"] == {"Test": ["NONE"]}

    @pytest.mark.parametrize("empty", [None, "", [], (), {}])
    def test_an_empty_value_removes_the_field(self, empty: object) -> None:
        assert "Cmd" not in config(builder().cmd("a").set_config("Cmd", empty))

    def test_a_command_set_with_set_config_is_kept_by_a_new_entrypoint(self) -> None:
        base = builder().cmd("old").build()

        found = config(ImageEditor(base).set_config("Cmd", ["new"]).entrypoint("/run"))

        assert (found["Cmd"], found["Entrypoint"]) == (["new"], ["/run"])


class TestCommands:
    """``entrypoint``, ``cmd`` and ``healthcheck`` take strings, or one list of strings."""

    @pytest.mark.parametrize("value", [["/run", "-v"], ("/run", "-v")])
    def test_a_list_is_the_same_as_its_strings(self, value: Sequence[str]) -> None:
        one = builder().entrypoint("/run", "-v").cmd("/run", "-v").healthcheck("/run", "-v", retries=2).build()

        other = builder().entrypoint(value).cmd(value).healthcheck(value, retries=2).build()

        assert other.digest == one.digest
        assert other.config().config.entrypoint == other.config().config.cmd == ("/run", "-v")

    def test_a_single_string_is_one_argument(self) -> None:
        assert config(builder().entrypoint("/run").cmd("-v")) == {"Entrypoint": ["/run"], "Cmd": ["-v"]}

    def test_an_empty_list_removes_the_command(self) -> None:
        assert config(builder().entrypoint("/run").cmd("-v").entrypoint([]).cmd([])) == {}

    def test_an_empty_list_disables_the_health_check(self) -> None:
        assert config(builder().healthcheck([]))["Healthcheck"] == {"Test": ["NONE"]}

    @pytest.mark.parametrize("method", ["entrypoint", "cmd", "healthcheck"])
    @pytest.mark.parametrize("arguments", [(["/run"], "-v"), ("/run", ["-v"]), (["/run"], ["-v"]), ([["/run"]],)])
    def test_a_list_among_other_arguments_is_refused(self, method: str, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(InvalidValue, match=f"{method}: pass either strings or one list of strings"):
            getattr(builder(), method)(*arguments)

    @pytest.mark.parametrize("method", ["entrypoint", "cmd", "healthcheck"])
    @pytest.mark.parametrize("arguments", [(b"/run",), (["/run", 1],), ({"/run": 1},), (None,)])
    def test_a_value_that_is_not_a_string_is_named_in_the_error(self, method: str, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(InvalidValue, match=f"{method}: not a string: "):
            getattr(builder(), method)(*arguments)

    def test_type_checkers_refuse_a_list_among_other_arguments(self) -> None:
        with pytest.raises(InvalidValue):
            builder().entrypoint(["/run"], "-v")  # type: ignore[call-overload]  # the mistake under test
        with pytest.raises(InvalidValue):
            builder().cmd("/run", ["-v"])  # type: ignore[call-overload]  # the mistake under test


class TestPaths:
    def test_paths_in_the_image_may_be_path_objects(self) -> None:
        found = config(builder().working_dir(PurePosixPath("/app")).volume(PurePosixPath("/data"), "/logs"))

        assert (found["WorkingDir"], found["Volumes"]) == ("/app", {"/data": {}, "/logs": {}})


class NotATime(datetime):
    """A missing value as pandas has it: a ``datetime`` that has no text."""

    def __new__(cls) -> NotATime:
        return super().__new__(cls, 1, 1, 1, tzinfo=UTC)

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"

    def astimezone(self, tz: tzinfo | None = None) -> NotATime:
        return self


class TestTimes:
    @pytest.mark.parametrize(
        ("time", "hint"),
        [
            (1.5, "whole seconds since 1970"),
            (True, "RFC 3339 text, a datetime with a time zone"),
            (None, "RFC 3339 text, a datetime with a time zone"),
            ("1700000000", "pass seconds since 1970 as an int"),
            (datetime(2024, 5, 6), "without a time zone"),
            ("2024-05-06T07:08:09", "without a time zone"),
            (1 << 62, "out of range"),
            (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), "out of range"),
            (NotATime(), "not an RFC 3339 date: 'NaT'"),
        ],
    )
    @pytest.mark.parametrize(
        "method",
        [
            lambda builder, time: builder.created(time),
            lambda builder, time: builder.add_files({"a": b""}, mtime=time),
            lambda builder, time: ImageEditor(builder.build()).canonicalise(time),
        ],
    )
    def test_an_argument_in_another_form_is_refused_with_the_expected_form(
        self, method: Callable[[ImageBuilder, Any], object], time: Any, hint: str
    ) -> None:
        with pytest.raises(InvalidValue, match=hint):
            method(builder(), time)

    @pytest.mark.parametrize(
        ("stated", "written"),
        [
            ("2024-05-06 07:08:09+00:00", "2024-05-06T07:08:09+00:00"),
            ("2024-05-06T07:08:09z", "2024-05-06T07:08:09Z"),
            ("2024-05-06T24:00:00Z", EPOCH_TEXT),
            ("yesterday", EPOCH_TEXT),
            ("", EPOCH_TEXT),
            (None, EPOCH_TEXT),
        ],
    )
    def test_a_new_step_does_not_repeat_a_date_of_the_image_that_readers_refuse(
        self, stated: str | None, written: str
    ) -> None:
        editor = ConfigEditor({"created": stated, "rootfs": {"diff_ids": []}}, 0)

        editor.append(Digest.of(b""), "add files")

        assert editor.document()["history"] == [{"created": written, "created_by": "add files"}]
        assert editor.document()["created"] == stated

    @pytest.mark.parametrize(
        "annotate",
        [
            lambda date: ImageBuilder().annotate(CREATED, date).build().manifest().annotations,
            lambda date: ImageBuilder().label(CREATED, date).build().config().config.labels,
            lambda date: IndexBuilder().annotate(CREATED, date).build().document.mapping["annotations"],
            lambda date: (
                IndexBuilder().add(builder().build(), annotations={CREATED: date}).build().manifests[0].annotations
            ),
            lambda date: (
                ImageEditor(builder().add_files({"a": b""}).build()).annotate_layer(0, CREATED, date).build()
            ).manifest().layers[0].annotations,
        ],
    )  # fmt: skip
    def test_the_annotation_of_the_date_is_written_as_all_readers_accept_it(
        self, annotate: Callable[[str], dict[str, str]]
    ) -> None:
        assert annotate("2024-05-06 07:08:09+00:00") == {CREATED: "2024-05-06T07:08:09+00:00"}
        with pytest.raises(InvalidValue, match=r"org\.opencontainers\.image\.created: not an RFC 3339 date"):
            annotate("6 May 2024")


class TestInvalidValues:
    """A value that readers of the image would refuse is refused by the method that sets it."""

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
