"""Jupyter: the only folder that imports IPython or ipywidgets."""
