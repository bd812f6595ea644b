"""The options of each compression method, as a variant in ``compsec.yaml`` gives them. No torch."""
