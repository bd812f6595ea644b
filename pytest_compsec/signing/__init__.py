"""Signatures over what we say: keys and envelopes."""
