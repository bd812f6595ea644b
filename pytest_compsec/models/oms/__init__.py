"""OpenSSF Model Signing v1.0: what a ``model.sig`` says, who signed it, whether it fits the files.

A signature here never takes the place of a pin. It says in addition that somebody who holds a key
signed these very files, and the lock pins the signature, the key and the files.
Specification: https://github.com/ossf/model-signing-spec (v1.0).
"""
