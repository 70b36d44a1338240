"""What the teaching notebooks call: modules a lesson, with its data, its pictures and the checks of its exercises.

<<<<<<< HEAD
Imports from ``tasks``, ``training``, ``trajectory``, ``store`` and ``view``; nothing imports it. Lessons need neither a run of
one's own, a key nor a GPU.
=======
It may import everything; nothing imports it. Lessons need neither a key nor a GPU; the runs they look at are committed.
>>>>>>> lessons-a
"""
