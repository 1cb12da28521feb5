"""Adapters that implement the state ports: in memory and SQL."""
