"""Models that a server answers for: nothing of them is on this machine, so nothing of them can be
hashed. What can be pinned is what the server says of itself; every verdict says the rest."""
