"""Where pydantic-ai's run loop meets the journal: agents are built, asked and recorded here."""
