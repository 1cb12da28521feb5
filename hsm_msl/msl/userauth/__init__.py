"""User authentication schemes: one file each."""
