"""Adapters that implement the key ports: PKCS#11 tokens and process-local software keys."""
