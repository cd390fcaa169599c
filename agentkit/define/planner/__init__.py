"""How the offline model decides: rules over words, schemas and results; no chance, no clock, no network."""
