"""Entity authentication schemes: one file each."""
