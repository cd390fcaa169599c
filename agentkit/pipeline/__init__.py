"""From notebook to pipeline: read the cells, find what depends on what, write one module, prove it is the same program."""
