"""The composition root: the only package that makes tokens, keys, stores and engines out of a configuration."""
