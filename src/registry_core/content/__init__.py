"""Byte streams: sources and readers, verification, compression, temporary storage, files."""
