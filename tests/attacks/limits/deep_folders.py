"""Folders in folders, deeper than a program that walks down by calling itself can follow."""

import os

LIMIT = ()  # leaves them for the host to clear away


def attack(t):
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
