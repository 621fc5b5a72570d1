"""What is done with repositories: read, copy, select, build. Written once, for every backend."""
