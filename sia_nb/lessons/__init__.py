"""What the teaching notebooks call: modules a lesson, with its data, its pictures and the checks of its exercises.

It may import everything; nothing imports it. Lessons need neither a key nor a GPU; the runs they look at are committed.
"""
