"""Dialogs as a service: configuration, composition, HTTP, the sender process, and what its verbs show."""
