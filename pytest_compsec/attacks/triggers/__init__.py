"""Triggers: what can be put on inputs so that a backdoor shows.

``images`` has the patch (BadNets) and the blended pattern, ``texts`` the phrase and the token,
``custom`` a user's own function; ``reading`` makes a trigger or a backdoor out of what a user
wrote, ``describing`` checks and describes it before torch is there, ``changes`` says which samples
a stamp changed. No module here imports torch before something is stamped or compared.
"""
