"""The weight lever: from rollouts and their rewards to a LoRA update of the policy.

advantages.py turns rewards into advantages, objectives.py turns those and token log-probabilities into a loss. May import
``scaffold``, ``policy``, ``tasks`` and what lies under them; only ``phases`` imports it. Nothing is imported here.
"""
