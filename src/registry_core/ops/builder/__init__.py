"""New images from parts, and changed ones from old."""
