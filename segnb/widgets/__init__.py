"""Panels for the notebooks, built from core ipywidgets only: 7.7, which Colab has, and 8.

A panel decides nothing: it builds a recipe and calls the functions that a script would call, and
what it shows is made by functions that work without it.
"""
