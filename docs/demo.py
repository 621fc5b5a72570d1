"""A tour of ociport that needs no network: `make demo`."""

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
    """Print a label and a value."""
    print(f"   {label:<22} {value}")


def show_digest(where: str, client: RegistryClient, reference: str, expected: str) -> None:
    """Print the digest that a backend reports; exit if it differs from the expected one."""
    digest = client.get_digest(reference)
    mark = "same digest" if digest == expected else "DIFFERENT DIGEST"
    say(where, f"{digest[:26]}…  {mark}")
    if digest != expected:
        raise SystemExit(f"{where}: the digest changed")


def main() -> None:
    """Build, push, list, inspect and copy an image index, and compare the digest in each backend."""
    started = time.perf_counter()
    print("ociport: one client, three backends".center(WIDTH))
    print("─" * WIDTH)

    with tempfile.TemporaryDirectory(prefix="ociport-demo-") as directory, registry_server(MemoryCatalog()) as server:
        heading(1, "Start an embedded registry on a free loopback port")
        say("URL", server.url)
        registry = open_client(server.url)
        shop = registry.with_segment("acme", "shop")
        say("client path", shop.registry)

        heading(2, "Build an image for two platforms, reproducibly")
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
        say("index", f"{index.digest[:26]}…")

        heading(3, "Push, list and inspect")
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
            say("a missing tag raises", f"{type(error).__name__}, a LookupError")

        heading(4, "Copy from the registry to a directory, and from there to memory")
        folder = open_client(f"oci:{Path(directory) / 'layout'}").with_segment("acme", "shop")
        memory = open_client("memory:").with_segment("acme", "shop")
        shop.copy_image("v1.0.0", folder, "v1.0.0")
        folder.copy_image("v1.0.0", memory, "v1.0.0")
        show_digest("registry", shop, "v1.0.0", index.digest)
        show_digest("directory", folder, "v1.0.0", index.digest)
        show_digest("memory", memory, "v1.0.0", index.digest)
        files = sorted(path for path in Path(directory).rglob("*") if path.is_file())
        say("directory contains", f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")
        for client in (registry, folder, memory):
            client.close()

    print("\n" + "─" * WIDTH)
    print(f"All digests are equal. Time: {time.perf_counter() - started:.1f} s.")


if __name__ == "__main__":
    main()
