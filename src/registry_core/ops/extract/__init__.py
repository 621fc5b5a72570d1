"""Images as file systems."""
