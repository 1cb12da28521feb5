"""Headers, error headers, payload chunks and capabilities."""
