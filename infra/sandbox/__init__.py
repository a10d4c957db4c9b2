"""A synthetic region served on loopback over the protocols of the real imagery and label sources."""
