"""Key exchange schemes: one file each."""
