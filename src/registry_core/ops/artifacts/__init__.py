"""Files as OCI artifacts, and what refers to a manifest."""
