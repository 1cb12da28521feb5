"""Bytes to structures and back: no keys, no state, no I/O. Everything protocol-shaped about bytes is here."""
