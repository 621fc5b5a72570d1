"""Build and edit images, indexes and layers."""
