"""Master, user ID and service tokens: parse, verify, issue."""
