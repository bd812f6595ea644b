"""Checkpoints with linear layers packed into 32-bit integers: the AutoGPTQ format and AWQ GEMM.

``settings`` reads what the checkpoint's config says, ``layers`` holds it against the headers of its
files, ``integers`` unpacks codes, ``gptq`` and ``awq`` turn one layer into dense weights, and
``opening`` makes a plain transformers module of them. ``route`` decides when gptqmodel's own
kernels compute instead.
"""
