"""Which tensor was changed? Digests of single tensors, in a file that the lock pins.

Opt-in (``compsec pin --tensors``). The file never decides whether bytes are right (the pins of
whole files do): it only says more about bytes that are wrong.
"""
