"""What the teaching notebooks call: a module a lesson, each with its data, its pictures and the checks of its exercises.

Imports from ``tasks``, ``training``, ``trajectory``, ``store`` and ``view``; nothing imports it. Lessons need neither a run of
one's own, a key nor a GPU.
"""
