"""From notebook to pipeline: read the cells, see what depends on what, write one module, prove it the same program."""
