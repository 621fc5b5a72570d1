"""For those who write backends: a contract suite to inherit, and content to try it with. Needs pytest."""

import pytest

# Without this, a third party sees bare assertion errors; with it, what was compared.
pytest.register_assert_rewrite("registry_core.testing.contract")

__all__: list[str] = []
