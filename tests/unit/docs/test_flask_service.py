"""The example service behaves as its documentation says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dependency_injector import providers

from registry_adapters import LayoutCatalog, MemoryCatalog
from registry_adapters.container import close
from registry_core import ImageBuilder, RegistryClient
from registry_core.ports.catalog import Catalog

SOURCE = Path(__file__).parents[3] / "docs" / "how-to" / "flask_service.py"
HTTP = {"seconds": 30, "registry": {"backend": "http", "http": {"registry": "registry.invalid"}}}


@pytest.fixture(scope="module")
def service() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("flask_service", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flask_service"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["flask_service"]


def filled(catalog: Catalog) -> Catalog:
    builder = ImageBuilder(platform="linux/arm64").add_files({"etc/motd": b"hello"})
    image = builder.label("org.example.team", "blue").env("MODE", "test").build()
    client = RegistryClient(catalog).with_segment("org/app")
    client.push_image("v1", image)
    client.push_image("v2", image)
    return catalog


def ask(service: ModuleType, application: Any, path: str) -> tuple[int, Any]:
    answer = service.create_app(application).test_client().get(path)
    return answer.status_code, answer.get_json()


@pytest.fixture
def application(service: ModuleType) -> Iterator[Any]:
    """The service as configured for production, its registry replaced by one in memory."""
    application = service.configured(HTTP)
    with application.registry.catalog.override(providers.Object(filled(MemoryCatalog()))):
        yield application


def test_tags_are_listed(service: ModuleType, application: Any) -> None:
    assert ask(service, application, "/tags/org/app") == (200, ["v1", "v2"])


def test_a_configuration_is_shown(service: ModuleType, application: Any) -> None:
    status, shown = ask(service, application, "/images/org/app/v1")

    assert status == 200
    assert shown["platform"] == "linux/arm64"
    assert shown["labels"] == {"org.example.team": "blue"}
    assert "MODE=test" in shown["environment"]
    assert shown["digest"].startswith("sha256:")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/images/org/app/v3", 404, "ImageNotFound"),
        ("/images/org/app/sha256:123", 400, "InvalidDigest"),
        ("/tags/Org/App", 400, "InvalidName"),
    ],
)
def test_errors_of_the_library_become_answers(
    service: ModuleType, application: Any, path: str, status: int, error: str
) -> None:
    answered, body = ask(service, application, path)

    assert (answered, body["error"]) == (status, error)


def test_it_runs_on_a_layout_by_configuration_alone(service: ModuleType, tmp_path: Path) -> None:
    catalog = filled(LayoutCatalog(tmp_path))
    application = service.configured(
        {"seconds": "30", "registry": {"backend": "layout", "layout": {"root": str(tmp_path)}}}
    )

    assert ask(service, application, "/tags/org/app") == (200, ["v1", "v2"])
    assert ask(service, application, "/images/org/app/v2")[0] == 200
    close(application.registry())
    catalog.close()


def test_a_mistake_in_the_configuration_is_answered_not_raised(service: ModuleType) -> None:
    application = service.configured({"seconds": 30, "registry": {"backend": "tape"}})

    status, body = ask(service, application, "/tags/org/app")

    assert (status, body["error"]) == (500, "ConfigError")


def test_the_guide_shows_the_container_of_the_example() -> None:
    guide = (SOURCE.parent / "dependency-injection.md").read_text()
    shown = guide.split("```text\n")[1].split("```")[0].splitlines()

    missing = [line for line in shown if line not in SOURCE.read_text().splitlines()]

    assert missing == []
