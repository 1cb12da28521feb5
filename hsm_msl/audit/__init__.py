"""The tamper-evident log of provisioning and servers: records in a hash chain, checkpoints a token key signs."""
