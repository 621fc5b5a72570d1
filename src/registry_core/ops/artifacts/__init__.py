"""Push and pull files as artifacts, and list referrers."""
