"""Adapters that implement the state ports: in memory and SQL.

``sql`` opens a database, ``schema`` and ``client_schema`` make its tables, and one module per port keeps its state
there; ``memory`` and ``client_memory`` hold the stores of a single process. All pass the same contract tests.
"""
