"""The policy π_θ: model.py fetches and loads it, grammar.py masks it, sampling.py draws from it, endpoint.py asks a server.

May import ``errors`` only. torch and transformers are imported lazily, so nothing is imported here.
"""
