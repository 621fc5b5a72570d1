"""Many repositories kept alike: which tags, what to copy, what to remove."""
