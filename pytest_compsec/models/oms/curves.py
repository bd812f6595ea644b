"""The elliptic curves that models are signed with (OpenSSF Model Signing v1.0, 4.2)."""

from __future__ import annotations


def on_model_curve(key: object) -> bool:
    """Whether ``key``, private or public, is one of P-256, P-384 or P-521."""
    from cryptography.hazmat.primitives.asymmetric import ec

    curves = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    return isinstance(getattr(key, "curve", None), curves)
