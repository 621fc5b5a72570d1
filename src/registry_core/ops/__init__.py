"""Operations on repositories of any backend: read, copy, select, build, extract and validate."""
