"""Images in one file: the format of ``docker save``, and OCI image layouts in a tar."""

from registry_adapters.archive.catalog import ArchiveCatalog
from registry_adapters.archive.names import ArchiveForm

__all__ = ["ArchiveCatalog", "ArchiveForm"]
