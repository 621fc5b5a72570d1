"""For those who write backends, keychains, authenticators: contract suites to inherit, content to try. Needs pytest."""

import pytest

# Without this, a third party sees bare assertion errors; with it, what was compared.
pytest.register_assert_rewrite(
    "registry_core.testing.authenticators", "registry_core.testing.contract", "registry_core.testing.keychains"
)

__all__: list[str] = []
