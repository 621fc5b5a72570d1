"""Contract suites to inherit for backends, keychains and authenticators, and content for tests. Needs pytest."""

import pytest

# Without this, pytest does not show the compared values of a failed assertion outside of test files.
pytest.register_assert_rewrite(
    "registry_core.testing.authenticators", "registry_core.testing.contract", "registry_core.testing.keychains"
)

__all__: list[str] = []
