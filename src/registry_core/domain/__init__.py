"""Values and rules without I/O: references, digests, descriptors, manifests, platforms, credentials, URL policy."""
