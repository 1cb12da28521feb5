"""Token vendors: one frozen profile of mechanisms, limits and quirks per file."""
