"""What an observer learns without reading an answer: its length, its time, its energy, a trace.

- ``folding``: how much more a signal says, whichever way it points.
- ``lengths``: how well the length of an answer tells two kinds of prompts apart.
- ``requests``: one arm as something that takes requests of a fixed size.
- ``blocks``: requests of several kinds in random order, each timed, with controls among them.
- ``timing``: from times to effects, and whether the controls say that they can be believed.
- ``energy``: joules of blocks of requests, where the machine has a meter that may be read.
- ``traces``: traces recorded with a probe, fixed inputs against random ones.
"""
