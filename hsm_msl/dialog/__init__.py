"""The secure dialog: a pure engine in which each side alone chooses and shifts the key for what it sends."""
