"""Crypto contexts and envelopes, written against key handles."""
