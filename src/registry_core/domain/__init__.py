"""Pure values: references, digests, descriptors, manifests, platforms, access. Nothing here does I/O."""
