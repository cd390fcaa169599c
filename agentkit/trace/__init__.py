"""Views of the record: a fold of its events, as HTML, as text, as frames."""
