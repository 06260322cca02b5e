"""The Python API: tables of a notebook in, lists and a report out, over the same stages as a night."""
