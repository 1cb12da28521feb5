"""Key ceremonies for hsm-msl: the only code of the project that creates, imports, exports or destroys keys."""
