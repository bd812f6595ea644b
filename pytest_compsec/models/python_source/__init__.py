"""Models that a user's own Python function builds: ``source: python:package.module:factory``.

``text`` reads the source, ``closure`` finds every file that its code needs without running any of
it (``local_files``, ``installed`` and ``dynamic`` help), ``importing`` runs the verified copies and
nothing else, ``weights`` fills the untrained module from one safetensors file.
"""
