"""Configuration, composition, HTTP server and client, health, metrics, audit."""
