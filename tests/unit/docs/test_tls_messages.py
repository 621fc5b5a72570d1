"""The page on TLS quotes the messages as the code has them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]
TRANSPORT = ROOT / "src" / "registry_adapters" / "http" / "transport"


def test_each_message_on_the_page_is_in_the_sources() -> None:
    page = (ROOT / "docs" / "how-to" / "tls.md").read_text()
    table = page.partition("| Message | Solution |\n| --- | --- |\n")[2].partition("\n\n")[0]
    messages = [row.split("|")[1].strip() for row in table.splitlines()]
    sources = "".join(path.read_text() for path in TRANSPORT.glob("*.py"))

    assert len(messages) >= 10
    assert [message for message in messages if f'"{message}' not in sources] == []
