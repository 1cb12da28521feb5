"""The MSL protocol engine: pure functions and state machines over bytes, a clock, randomness and ports."""
