"""What the teaching notebooks call: a module a lesson, each with its data, its pictures and the checks of its exercises.

Imports from ``tasks`` and ``view``; nothing imports it. Lessons need neither a run, a key nor a GPU.
"""
