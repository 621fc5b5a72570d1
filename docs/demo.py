"""A tour of ociport on this machine alone: `make demo`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import ImageBuilder, ImageNotFound, IndexBuilder, RegistryClient

WIDTH = 78


def heading(number: int, text: str) -> None:
    """Print the title of a step."""
    print(f"\n\033[1m{number}. {text}\033[0m" if sys.stdout.isatty() else f"\n{number}. {text}")


def say(label: str, value: object = "") -> None:
    """Print one fact."""
    print(f"   {label:<22} {value}")


def show_hop(where: str, client: RegistryClient, reference: str, expected: str) -> None:
    """Print the digest that a backend reports, and stop if it is not the expected one."""
    digest = client.get_digest(reference)
    mark = "same digest" if digest == expected else "DIFFERENT DIGEST"
    say(where, f"{digest[:26]}…  {mark}")
    if digest != expected:
        raise SystemExit("a digest changed on the way")


def main() -> None:
    """Build, push, list, inspect, copy out and back, and compare digests at each hop."""
    started = time.perf_counter()
    print("ociport: one client, three backends".center(WIDTH))
    print("─" * WIDTH)

    with tempfile.TemporaryDirectory(prefix="ociport-demo-") as directory, registry_server(MemoryCatalog()) as server:
        heading(1, "An embedded registry on a free loopback port")
        say("listening at", server.url)
        registry = open_client(server.url)
        shop = registry.with_segment("acme", "shop")
        say("client path", shop.registry)

        heading(2, "Build an image for two platforms, the same bytes whenever it is built")
        images = [
            ImageBuilder(platform=platform)
            .add_files({"app/hello.txt": f"hello from {platform}\n".encode(), "etc/motd": b"welcome\n"})
            .add_files({"app/run.sh": b"#!/bin/sh\ncat /app/hello.txt\n"})
            .label("org.opencontainers.image.version", "1.0.0")
            .env("GREETING", "hello")
            .entrypoint("/bin/sh", "/app/run.sh")
            .build()
            for platform in ("linux/amd64", "linux/arm64")
        ]
        index = IndexBuilder().add(images[0]).add(images[1]).annotate("org.example.demo", "yes").build()
        for image in images:
            say(str(image.platform), f"{image.digest[:26]}…  {len(image.layers())} layers")
        say("index of both", f"{index.digest[:26]}…")

        heading(3, "Push, list, inspect")
        shop.push_index("v1.0.0", index)
        shop.tag_image("v1.0.0", "latest")
        say("repositories", registry.list_repositories())
        say("tags", shop.list_tags())
        config = shop.get_image_config("v1.0.0", platform="linux/arm64")
        say(
            "config of linux/arm64",
            f"{config.os}/{config.architecture}, entrypoint {' '.join(config.config.entrypoint)}",
        )
        say("labels", dict(config.config.labels))
        for layer in shop.get_image("v1.0.0", platform="linux/arm64").layers():
            say("layer", f"{layer.digest[:26]}…  {layer.size} bytes")
        try:
            shop.get_image("v9.9.9")
        except ImageNotFound as error:
            say("and an absent tag is", f"{type(error).__name__}, a LookupError")

        heading(4, "Copy registry → directory → memory; the digest travels unchanged")
        folder = open_client(f"oci:{Path(directory) / 'layout'}").with_segment("acme", "shop")
        memory = open_client("memory:").with_segment("acme", "shop")
        shop.copy_image("v1.0.0", folder, "v1.0.0")
        folder.copy_image("v1.0.0", memory, "v1.0.0")
        show_hop("in the registry", shop, "v1.0.0", index.digest)
        show_hop("in the directory", folder, "v1.0.0", index.digest)
        show_hop("in memory", memory, "v1.0.0", index.digest)
        files = sorted(path for path in Path(directory).rglob("*") if path.is_file())
        say("the directory holds", f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")
        for client in (registry, folder, memory):
            client.close()

    print("\n" + "─" * WIDTH)
    print(f"All digests agree. That took {time.perf_counter() - started:.1f} s.")


if __name__ == "__main__":
    main()
